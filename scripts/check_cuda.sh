#!/usr/bin/env bash
# Everything that only a CUDA device can show: the fast path, watchers beside the words, FlexAttention's gradients,
# flash-attention, pixels. Random weights and made-up clips: nothing is downloaded. Ends with 1 if anything failed.
#   bash scripts/check_cuda.sh [FOLDER [PART ...]] [-- PYTEST ARGUMENTS]     (FOLDER: $OUT, else output/check_cuda)
# A part is a folder of tests/ that has such tests; --list names them. Each takes less than nine minutes, what is done is
# left out when it runs again, and FOLDER/summary.md tells of all: see scripts/parts.sh.
# SWWATCH_PYTHON=/path/to/python takes that interpreter as it is.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$ROOT/scripts/parts.sh"
find_python
cd "$ROOT"
mapfile -t PARTS < <(grep -rl --include='test_*.py' 'mark\.gpu' tests | cut -d/ -f2 | sort -u)
if [ "${1:-}" = "--list" ]; then echo "${PARTS[@]}"; exit 0; fi
given=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do given+=("$1"); shift; done
[ "${1:-}" = "--" ] && shift
EXTRA=("$@")
open_folder "${given[0]:-}" "$ROOT/output/check_cuda"
chosen=("${given[@]:1}")
[ ${#chosen[@]} -gt 0 ] || chosen=("${PARTS[@]}")
for name in "${chosen[@]}"; do
    [[ " ${PARTS[*]} " == *" $name "* ]] || { echo "error: no part $name: choose among ${PARTS[*]}" >&2; exit 2; }
done

check_packages accelerate pytest hypothesis
"$PYTHON" - <<'PYTHON_END' || exit 2
import sys
from importlib.util import find_spec

import torch

if not torch.cuda.is_available():
    sys.exit("error: this machine has no CUDA device: nothing here can be checked on a CPU")
for i in range(torch.cuda.device_count()):
    print(f"device {i}: {torch.cuda.get_device_name(i)}, compute capability {torch.cuda.get_device_capability(i)}")
print("flash-attention", "installed" if find_spec("flash_attn") else "not installed: its checks are skipped")
PYTHON_END
echo "commit: $COMMIT"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

part() { # only files with such tests are imported: the others need packages that are not needed here
    local files
    mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' "tests/$1" | sort)
    limited "$PYTHON" -m pytest -m gpu -rsfE -p no:cacheprovider -o addopts="--strict-markers --import-mode=importlib" \
        --junitxml="$FOLDER/$1.xml" --durations=5 "${files[@]}" "${EXTRA[@]}" || return
    "$PYTHON" - "$FOLDER/$1.xml" <<'PYTHON_END'
import sys
from xml.etree import ElementTree

suite = ElementTree.parse(sys.argv[1]).getroot().find("testsuite").attrib
ran, skipped = int(suite["tests"]), int(suite["skipped"])
print(f"{ran - skipped} passed, {skipped} skipped")
sys.exit(0 if ran > skipped else 1)
PYTHON_END
}

run_parts "${chosen[@]}"
failed=$?
echo "check_cuda: $([ $failed = 0 ] && echo ok || echo FAILED)"
exit $failed
