"""The evaluation program behind `eval.sh`."""
