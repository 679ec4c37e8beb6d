# Sourced by scripts that check or measure in parts, each of less than nine minutes, for machines that are lent for short.
# A part is what `part NAME` runs. What is done at this commit is left out when the script runs again (AGAIN=1 does it
# anew); one that failed or was cut is tried again. After each part FOLDER/summary.md is written anew: the machine, what
# each part came to, and its tables, for docs/results.
PART_S="${PART_S:-510}" # seconds of a part; a benchmark that is stopped writes what it has

limited() { timeout --kill-after=25 "$PART_S" "$@"; }

# check_packages MORE...: ends with 2, and the command that installs what is missing
check_packages() {
    "$PYTHON" - torch torchvision transformers tokenizers matplotlib pillow psutil pyyaml "$@" <<'PYTHON_END' || exit 2
import sys
from importlib.util import find_spec

MODULES = {"pillow": "PIL", "pyyaml": "yaml"}  # whose names differ
missing = [name for name in sys.argv[1:] if find_spec(MODULES.get(name, name)) is None]
if missing:
    sys.exit(f"error: packages are missing:\n  {sys.executable} -m pip install {' '.join(missing)}")
PYTHON_END
}

# open_folder GIVEN DEFAULT: sets FOLDER
open_folder() {
    FOLDER="${1:-${OUT:-$2}}"
    mkdir -p "$FOLDER/.parts" && FOLDER="$(cd "$FOLDER" && pwd)" || exit 2
    COMMIT="$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)"
    [ -z "$(git -C "$ROOT" status --porcelain -uno 2>/dev/null)" ] || COMMIT="$COMMIT and changes"
}

# run_parts NAME...: one behind the other, whatever fails; returns 1 if anything did
run_parts() {
    local name state seconds bad=0 known
    for name in "$@"; do
        known="$(cat "$FOLDER/.parts/$name" 2>/dev/null)"
        if [ -z "${AGAIN:-}" ] && [ "${known%% *}" = ok ] && [ "$(cut -d' ' -f4- <<<"$known")" = "$COMMIT" ]; then
            echo "== $name: done already at $COMMIT (AGAIN=1 does it anew)"
            continue
        fi
        echo "== $name"
        seconds=$SECONDS
        part "$name" 2>&1 | tee "$FOLDER/$name.log"
        state="${PIPESTATUS[0]}"
        seconds=$((SECONDS - seconds))
        case "$state" in
            0) state=ok ;;
            124 | 137) state=cut ;;
            *) state="failed" ;;
        esac
        [ "$state" = ok ] && [ "$seconds" -ge "$PART_S" ] && state=cut
        [ "$state" = ok ] || bad=1
        echo "$state $seconds $(date -u +%Y-%m-%d) $COMMIT" >"$FOLDER/.parts/$name"
        summarise "$(basename "$0")" >"$FOLDER/summary.md"
    done
    echo "summary: $FOLDER/summary.md"
    return $bad
}

# summarise SCRIPT: Markdown of all parts that were ever run in this folder
summarise() {
    local name state seconds day commit page
    echo "## Measured by scripts/$1"
    echo
    "$PYTHON" - <<'PYTHON_END'
import platform, torch, transformers
count = torch.cuda.device_count()
found = [f"{count} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}" if count else "no CUDA device"]
found += [f"torch {torch.__version__}", f"transformers {transformers.__version__}", f"Python {platform.python_version()}"]
print(", ".join(found))
PYTHON_END
    echo
    echo "| part | came to | seconds | day | commit |"
    echo "|---|---|---|---|---|"
    for page in "$FOLDER"/.parts/*; do
        name="$(basename "$page")"
        read -r state seconds day commit <"$page"
        echo "| $name | $state | $seconds | $day | $commit |"
    done
    for page in "$FOLDER"/.parts/*; do
        name="$(basename "$page")"
        echo
        echo "### $name"
        echo
        if compgen -G "$FOLDER/$name/bench_*.md" >/dev/null; then
            sed 's/^#/###/' "$FOLDER/$name"/bench_*.md
        else
            echo '```'
            tail -n 12 "$FOLDER/$name.log"
            echo '```'
        fi
    done
}
