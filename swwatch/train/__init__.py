"""The training program behind `scripts/sft.sh`."""
