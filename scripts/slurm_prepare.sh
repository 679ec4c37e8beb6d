#!/usr/bin/env bash
# Prepares the annotations on many nodes under Slurm: an array of slices, then one job that joins them.
#   job=$(sbatch --parsable --array=1-8 scripts/slurm_prepare.sh --sample 20000)
#   sbatch --dependency="afterok:$job" scripts/slurm_prepare.sh --sample 20000        # no array: --join
# Give both the same flags, those of `python mani_data.py --help`. Submit from the repository, which, like the data, must
# be on a file system that all nodes share. A slice whose node failed is queued again, and goes on where it was; submit
# the whole array again after a failure: slices that are done end at once.
#SBATCH --job-name=swwatch-prepare
#SBATCH --cpus-per-task=4
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=output/slurm-%A_%a.txt
set -euo pipefail
source scripts/setup.sh
find_python
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    exec "$PYTHON" mani_data.py "$@" --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --workers "${SLURM_CPUS_PER_TASK:-1}"
fi
exec "$PYTHON" mani_data.py "$@" --join
