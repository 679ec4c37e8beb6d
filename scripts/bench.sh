#!/usr/bin/env bash
# Measures watching while speaking on this machine, GPU or CPU: random weights, nothing is downloaded.
#   bash scripts/bench.sh [FOLDER [PART ...]]      (FOLDER: $OUT, else output/bench; it must not be the repository)
# Parts, by default all in this order, the most important figures first:
#   base             all engines at 64 video tokens a step, K = 3, 30 steps: gain against the bound, decoding against
#                    the weight-read bound, first token, staleness; then the highest rate that is held while narrating
#   live             sessions held at 2 frames a second on one device, first response P95
#   sweep            video tokens a step, K, number of steps
#   endless-own      streams without end: this project's own, watching before it speaks and meanwhile;
#   endless-windows  StreamingVLM's sinks and windows, and the same window read anew;
#   endless-anew     everything begun anew, and a flush of all video (LiveCC);
#   endless-full     full attention
#   soak             five minutes of one session: drift of step time, memory, positions
# Each takes less than nine minutes, what is done is left out when it runs again, and FOLDER/summary.md tells of all: see
# scripts/parts.sh. The tests that need a GPU are scripts/check_cuda.sh's.
# On a GPU the shape of Qwen2.5-VL-7B in bfloat16, on a CPU about 0.2 B parameters; SHAPE=3b, toy, ... chooses another.
# Goes on after a part that fails, and then ends with 1.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$ROOT/scripts/parts.sh"
find_python
PARTS=(base live sweep endless-own endless-windows endless-anew endless-full soak)
if [ "${1:-}" = "--list" ]; then echo "${PARTS[@]}"; exit 0; fi
open_folder "${1:-}" "$ROOT/output/bench"
shift $(($# > 0))
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
check_packages
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    DEVICE=cuda SHAPE="${SHAPE:-7b}" SUSTAIN=(--sustain --hold-s 5) LIVE=(--begin 32 --session-s 10 --seconds 10)
    ENDLESS=(--shape "$SHAPE" --mode-s 220)
else
    # on a CPU the toy shape for streams without end: minutes of one take long
    DEVICE=cpu SHAPE="${SHAPE:-0.2b}" SUSTAIN=() LIVE=(--session-s 10 --seconds 10) ENDLESS=(--shape toy)
fi
# waiting threads yield: where other programs run too, spinning ones make a CPU several times slower
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

bench() { # part kind arguments...: when the time is up it writes what is measured by then, and ends
    limited "$PYTHON" -m swwatch.cli bench "$2" --device "$DEVICE" "${@:3}" --output "$FOLDER/$1"
}

part() {
    local shape=(--shape "$SHAPE")
    case "$1" in
        base) bench base stream "${shape[@]}" --video-tokens 64 --k 3 --steps 30 "${SUSTAIN[@]}" ;;
        live) bench live live "${shape[@]}" "${LIVE[@]}" ;;
        sweep) bench sweep stream "${shape[@]}" --no-paced ;;
        endless-own) bench "$1" endless "${ENDLESS[@]}" --modes serial,fused ;;
        endless-windows) bench "$1" endless "${ENDLESS[@]}" --modes sink_window,recompute ;;
        endless-anew) bench "$1" endless "${ENDLESS[@]}" --modes restart,flush ;;
        endless-full) bench "$1" endless "${ENDLESS[@]}" --modes full ;;
        soak) bench soak stream "${shape[@]}" --video-tokens 64 --k 3 --steps 10 --engines serial,fused --repeats 1 \
            --no-paced --soak 5 ;;
    esac
}

for name in "$@"; do
    [[ " ${PARTS[*]} " == *" $name "* ]] || { echo "error: no part $name: choose among ${PARTS[*]}" >&2; exit 2; }
done
[ $# -gt 0 ] || set -- "${PARTS[@]}"
run_parts "$@"
