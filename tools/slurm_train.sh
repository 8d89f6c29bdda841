#!/usr/bin/env bash
# Trains under Slurm: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS come from the environment.
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments]" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
partition=$1 job_name=$2 config=$3 work_dir=$4
shift 4
# SRUN_ARGS holds several words on purpose.
# shellcheck disable=SC2086
exec srun -p "$partition" --job-name="$job_name" --gres="gpu:${GPUS_PER_NODE:-8}" --ntasks="${GPUS:-8}" \
  --ntasks-per-node="${GPUS_PER_NODE:-8}" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
  ${SRUN_ARGS:-} "$PYTHON" -u "$repo/tools/train.py" "$config" --work-dir="$work_dir" --launcher=slurm "$@"
