#!/usr/bin/env bash
# Captions and scores a test set: bash eval.sh --model-path output/qwen2_5vl-pe-group   (bash eval.sh --help)
# Works from any folder; relative paths in arguments count from there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
find_python
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m swwatch.cli eval "$@"
