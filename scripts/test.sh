#!/usr/bin/env bash
# Sets up .venv from the lock and runs all tests. Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
cd "$ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tiny models: a second thread costs more than it gives
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# what is skipped here, and how to get it; the summary at the end names each test
browser="$(command -v chromium chromium-browser google-chrome google-chrome-stable | head -n 1)" || true
[ -n "$browser" ] || echo "skipped: tests of the page in a browser, for there is no Chromium or Chrome (apt install chromium)"
command -v java >/dev/null || echo "skipped: tests of METEOR and the PTB tokenizer, for there is no Java (apt install default-jre-headless)"
command -v openssl >/dev/null || echo "skipped: tests of streams with a certificate, for there is no openssl (apt install openssl)"
[ "$(id -u)" = 0 ] || echo "skipped: tests of a full disk, for only root may mount a small one"
# in two processes by default; another number: TEST_PROCESSES=4, in this process (to debug): TEST_PROCESSES=0
exec "$PYTHON" -m pytest -n "${TEST_PROCESSES:-2}" --dist worksteal --durations=10 -rs "$@"
