#!/usr/bin/env bash
# Our sessions under lmms-eval's own command, in an environment of its own (its package is not among our dependencies):
#     bash scripts/lmms_eval.sh FOLDER
# makes FOLDER/env with lmms-eval and this checkout, toy videos with questions and a random model, and runs the streaming
# task of scripts/lmms_eval (several rounds a video). For a checkpoint and a task of lmms-eval's own:
#     FOLDER/env/bin/lmms_eval --model swwatch --model_args pretrained=PATH,variant=group --tasks videomme --batch_size 1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
folder="$(realpath -m "${1:?which folder? bash scripts/lmms_eval.sh FOLDER}")"
mkdir -p "$folder"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_DATASETS_OFFLINE="${HF_DATASETS_OFFLINE:-1}"
if [ ! -e "$folder/env/.installed" ]; then
    python3 -m venv "$folder/env"
    # its own list pins an older av and much that this needs nothing of: our lock first, then what it imports
    "$folder/env/bin/python" -m pip install --quiet -r "$ROOT/requirements.lock" \
        accelerate datasets evaluate jsonlines pytablewriter sacrebleu scikit-learn timm einops ftfy nltk loguru tenacity \
        tiktoken sentencepiece pycocoevalcap tqdm-multiprocess zstandard sympy latex2sympy2 openpyxl zss python-dotenv \
        qwen-vl-utils math-verify opencv-python-headless numexpr hf_transfer
    "$folder/env/bin/python" -m pip install --quiet --no-deps lmms-eval "$ROOT"
    touch "$folder/env/.installed"
fi
python="$folder/env/bin/python"
cd "$folder"
[ -e data/questions_test.json ] || {
    "$python" -m swwatch toy data data --clips 0 --test-clips 2 --level count --workers 1
    "$python" -m swwatch toy questions data
}
[ -e model ] || "$python" -m swwatch toy model model
cd data
"$python" -m lmms_eval --model swwatch --model_args "pretrained=$folder/model,variant=group,device=cpu" --batch_size 1 \
    --include_path "$ROOT/scripts/lmms_eval" --tasks swwatch_streaming --output_path "$folder/results" --log_samples
