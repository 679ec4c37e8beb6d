#!/usr/bin/env bash
# Fine-tunes a variant: QWEN2_5_VL_VARIANT=group bash scripts/sft.sh --config configs/train/paper_7b.yaml   (or --help)
# One process for each visible GPU (NPROC_PER_NODE overrides); several nodes: set NNODES or WORLD_SIZE, NODE_RANK,
# MASTER_ADDR and MASTER_PORT on each. See docs/training.md. Exit code 75: stopped by SIGTERM, run it again to continue.
# Works from any folder; relative paths in arguments and variables count from there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
find_python
# waiting threads yield: on a CPU that other programs use too, spinning ones make a step several times slower
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m swwatch.launch.torchrun swwatch.train.command "$@"
