#!/usr/bin/env bash
# Measures our video reader beside decord, ffmpeg, torchcodec and plain PyAV on clips that it makes; nothing is
# downloaded. Arguments go to bench_reader.py, whose --help says what is measured:
# bash scripts/bench_reader.sh --sizes 640x360 --rounds 1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
find_python
exec "$PYTHON" "$ROOT/scripts/bench_reader.py" "$@"
