#!/usr/bin/env bash
# Fine-tunes a variant: QWEN2_5_VL_VARIANT=group bash scripts/sft.sh --config configs/train/paper_7b.yaml   (or --help)
# Works from any folder; relative paths in arguments and variables count from there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
find_python
# waiting threads yield: on a CPU that other programs use too, spinning ones make a step several times slower
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m swwatch.cli train "$@"
