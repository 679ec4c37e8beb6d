#!/usr/bin/env bash
# Sets up .venv from the lock and runs all tests. Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
cd "$ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tiny models: a second thread costs more than it gives
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# in two processes by default; another number: TEST_PROCESSES=4, in this process (to debug): TEST_PROCESSES=0
exec "$PYTHON" -m pytest -n "${TEST_PROCESSES:-2}" --dist worksteal --durations=10 "$@"
