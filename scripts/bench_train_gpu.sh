#!/usr/bin/env bash
# Everything that is to be measured of training on one CUDA GPU: the benchmark at 3B size, memory against length.
#   bash scripts/bench_train_gpu.sh [FOLDER [PART ...]]     (FOLDER: $OUT, else output/bench_train)
# Parts, by default all: group (FlexAttention), causal (flash-attention too, where it is installed), autocast (as
# `swwatch train` with ddp), sweep. Random weights and made-up samples: nothing is downloaded. Each takes less than nine
# minutes, what is done is left out when it runs again, and FOLDER/summary.md tells of all: see scripts/parts.sh.
# Gradients are compared by scripts/check_cuda.sh. Goes on after a part that fails, and then ends with 1.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$ROOT/scripts/parts.sh"
find_python
PARTS=(group causal autocast sweep)
if [ "${1:-}" = "--list" ]; then echo "${PARTS[@]}"; exit 0; fi
open_folder "${1:-}" "$ROOT/output/bench_train"
shift $(($# > 0))
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
check_packages
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    { echo "error: no CUDA device: on a CPU use swwatch bench train" >&2; exit 2; }

bench() { limited "$PYTHON" -m swwatch.cli bench train --output "$FOLDER/$1" "${@:2}"; }

part() {
    case "$1" in
        group) bench group --shape 3b --variant group ;;
        causal) bench causal --shape 3b --variant interleave ;;
        autocast) bench autocast --shape 3b --variant group --precision autocast --rows dense-eager,sdpa,flex-packed ;;
        sweep) bench sweep --shape 0.2b --variant group --sweep-length 2048,8192,32768 \
            --rows dense-eager,sdpa,flex,flex-packed ;;
    esac
}

for name in "$@"; do
    [[ " ${PARTS[*]} " == *" $name "* ]] || { echo "error: no part $name: choose among ${PARTS[*]}" >&2; exit 2; }
done
[ $# -gt 0 ] || set -- "${PARTS[@]}"
run_parts "$@"
