#!/usr/bin/env bash
# Measures watching while speaking on this machine, GPU or CPU: random weights, nothing is downloaded.
#   bash scripts/bench.sh [FOLDER [PART ...]]      (FOLDER: $OUT, else output/bench; it must not be the repository)
# Parts, by default all in this order, the most important figures first; each has a time limit and writes as it goes:
#   base     all engines at 64 video tokens a step, K = 3, 30 steps: gain against the bound, decoding against the
#            weight-read bound, first token, staleness; then the highest rate that is held while narrating
#   live     sessions held at 2 frames a second on one device, first response P95
#   sweep    video tokens a step, K, number of steps
#   endless  streams without end: full attention, windows, StreamingVLM, LiveCC and this project's own, side by side
#   soak     five minutes of one session: drift of step time, memory, positions
#   tests    the tests that need a GPU, as scripts/check_cuda.sh runs them (left out without one)
# On a GPU the shape of Qwen2.5-VL-7B in bfloat16, on a CPU about 0.2 B parameters; SHAPE=3b, toy, ... chooses another.
# Goes on after a part that fails, and then ends with 1.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
find_python
FOLDER="${1:-${OUT:-$ROOT/output/bench}}"
mkdir -p "$FOLDER" && FOLDER="$(cd "$FOLDER" && pwd)" || exit 2
shift $(($# > 0))
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    DEVICE=cuda SHAPE="${SHAPE:-7b}" SUSTAIN=(--sustain --hold-s 5) LIVE=(--begin 32 --session-s 10 --seconds 10) SECONDS_EACH=(300 200 300 420 900)
    [ $# -gt 0 ] || set -- base live sweep endless soak tests
else
    DEVICE=cpu SHAPE="${SHAPE:-0.2b}" SUSTAIN=() LIVE=(--session-s 10 --seconds 10) SECONDS_EACH=(900 300 900 420 600)
    [ $# -gt 0 ] || set -- base live sweep endless soak
fi

bench() { # seconds part arguments...: when the time is up it writes what is measured by then, and ends
    local seconds="$1" part="$2"
    timeout --kill-after=20 "$seconds" "$PYTHON" -m swwatch.cli bench "${@:3}" --output "$FOLDER/$part"
}

# waiting threads yield: where other programs run too, spinning ones make a CPU several times slower
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

failed=0
for part in "$@"; do
    echo "== $part"
    case "$part" in
        base) bench "${SECONDS_EACH[0]}" base stream --device "$DEVICE" --shape "$SHAPE" --video-tokens 64 --k 3 --steps 30 \
            "${SUSTAIN[@]}" ;;
        live) bench "${SECONDS_EACH[1]}" live live --device "$DEVICE" --shape "$SHAPE" "${LIVE[@]}" ;;
        sweep) bench "${SECONDS_EACH[2]}" sweep stream --device "$DEVICE" --shape "$SHAPE" --no-paced ;;
        # on a CPU the toy shape: a stream of minutes in seven ways takes long
        endless) bench "${SECONDS_EACH[4]}" endless endless --device "$DEVICE" \
            --shape "$([ "$DEVICE" = cuda ] && echo "$SHAPE" || echo toy)" ;;
        soak) bench "${SECONDS_EACH[3]}" soak stream --device "$DEVICE" --shape "$SHAPE" --video-tokens 64 --k 3 --steps 10 \
            --engines serial,fused --repeats 1 --no-paced --soak 5 ;;
        tests) SWWATCH_PYTHON="$PYTHON" timeout --kill-after=20 600 bash "$ROOT/scripts/check_cuda.sh" "$FOLDER/tests" ;;
        *) echo "error: no part $part" >&2; exit 2 ;;
    esac 2>&1 | tee "$FOLDER/$part.log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
done
echo "written to $FOLDER"
exit $failed
