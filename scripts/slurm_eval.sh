#!/usr/bin/env bash
# Captions and scores a test set on two nodes of eight GPUs under Slurm; a job that was stopped goes on where it was:
#   sbatch scripts/slurm_eval.sh --model-path output/qwen2_5vl-pe-group --output-dir output/eval
# Submit it from the repository, which, like output folder, data and model, must be on a file system all nodes share.
#SBATCH --job-name=swwatch-eval
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=output/slurm-%j.txt
set -euo pipefail
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-29500}"
exec srun --kill-on-bad-exit=1 bash eval.sh "$@"
