#!/usr/bin/env bash
# Everything that only a CUDA device can show: the fast path, watchers beside the words, FlexAttention's gradients,
# flash-attention, pixels. Random weights and made-up clips: nothing is downloaded. One summary, and 1 if anything failed.
#   bash scripts/check_cuda.sh [FOLDER] [-- PYTEST ARGUMENTS]     (FOLDER: $OUT, else output/check_cuda)
# SWWATCH_PYTHON=/path/to/python takes that interpreter as it is.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
find_python
FOLDER="${OUT:-$ROOT/output/check_cuda}"
if [ $# -gt 0 ] && [ "$1" != "--" ]; then FOLDER="$1"; shift; fi
if [ "${1:-}" = "--" ]; then shift; fi
mkdir -p "$FOLDER" && FOLDER="$(cd "$FOLDER" && pwd)" || exit 2
cd "$ROOT"

"$PYTHON" - <<'PYTHON_END' || exit 2
import sys
from importlib.util import find_spec

NEEDED = {  # module -> what to install
    "torch": "torch", "torchvision": "torchvision", "transformers": "transformers", "accelerate": "accelerate",
    "tokenizers": "tokenizers", "matplotlib": "matplotlib", "PIL": "pillow",
    "psutil": "psutil", "yaml": "pyyaml", "pytest": "pytest", "hypothesis": "hypothesis",
}  # fmt: skip
missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    print(f"error: {sys.executable} has no {', '.join(missing)}. Install:", file=sys.stderr)
    print(f"  {sys.executable} -m pip install {' '.join(NEEDED[name] for name in missing)}", file=sys.stderr)
    sys.exit(2)
import torch
import transformers

if not torch.cuda.is_available():
    sys.exit("error: this machine has no CUDA device: nothing here can be checked on a CPU")
for i in range(torch.cuda.device_count()):
    print(f"device {i}: {torch.cuda.get_device_name(i)}, compute capability {torch.cuda.get_device_capability(i)}")
flash = "installed" if find_spec("flash_attn") else "not installed: its checks are skipped"
print(f"python {sys.version.split()[0]}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
      f"transformers {transformers.__version__}, flash-attention {flash}")
PYTHON_END
echo "commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

# only files with such tests are imported: the others need packages that are not needed here
mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests | sort)
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -m pytest -m gpu -rsfE -p no:cacheprovider \
    -o addopts="--strict-markers --import-mode=importlib" --junitxml="$FOLDER/check_cuda.xml" --durations=5 \
    "${files[@]}" "$@" 2>&1 | tee "$FOLDER/check_cuda.log"
status="${PIPESTATUS[0]}"

"$PYTHON" - "$FOLDER/check_cuda.xml" "$status" <<'PYTHON_END'
import sys
from xml.etree import ElementTree

status = int(sys.argv[2])
try:
    suite = ElementTree.parse(sys.argv[1]).getroot().find("testsuite").attrib
except (OSError, ElementTree.ParseError) as error:
    sys.exit(f"check_cuda: FAILED, the tests did not run to their end ({error})")
ran, skipped, bad = int(suite["tests"]), int(suite["skipped"]), int(suite["failures"]) + int(suite["errors"])
passed = ran - skipped - bad
ok = status == 0 and bad == 0 and passed > 0
print(f"check_cuda: {'ok' if ok else 'FAILED'}: {passed} passed, {bad} failed, {skipped} skipped")
sys.exit(0 if ok else 1)
PYTHON_END
