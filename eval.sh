#!/usr/bin/env bash
# Captions and scores a test set: bash eval.sh --model-path output/qwen2_5vl-pe-group   (bash eval.sh --help)
# Works from any folder; relative paths in arguments count from there. One process for each GPU of the machine;
# NPROC_PER_NODE says another number, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT join several machines.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
find_python
# waiting threads yield: on a CPU that other programs use too, spinning ones make a step several times slower
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m swwatch.launch.torchrun swwatch.evaluate.caption.command "$@"
