#!/usr/bin/env bash
# Measures this project beside what one would run instead, in plain transformers, on this machine's CPU: random weights,
# made-up clips, nothing is downloaded. Some 20 minutes; arguments go to bench_peers.py, whose --help says what each row
# is: bash scripts/bench_peers.sh --rows release --seconds 10
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
find_python
# With two threads or more: where other programs run too, set OMP_WAIT_POLICY=PASSIVE, or waiting threads that spin make
# all several times slower; on a machine to itself leave it, for there it costs a third.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" "$ROOT/scripts/bench_peers.py" "$@"
