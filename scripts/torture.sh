#!/usr/bin/env bash
# What happens where things go wrong, many times over: kills, damaged files, full disks, hostile clients, long streams.
# About an hour in full; continues where it was stopped.  bash scripts/torture.sh [--share 0.1] [--seed 1] [PART ...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
cd "$ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tiny models: a second thread costs more than it gives
exec "$PYTHON" -m tests.torture "$@"
