#!/usr/bin/env bash
# Sets up .venv from the lock and runs all tests. Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest --durations=10 "$@"
