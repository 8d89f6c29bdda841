#!/usr/bin/env bash
# Trains with GPUS processes: bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Without a GPU the same command trains GPUS processes on the CPU.
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT. Another interpreter: PYTHON.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
config=$1 gpus=$2
shift 2
launch "$gpus" train "$config" "$@"
