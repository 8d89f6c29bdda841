#!/usr/bin/env bash
# Evaluates with GPUS processes: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT. Another interpreter: PYTHON.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
config=$1 checkpoint=$2 gpus=$3
shift 3
launch "$gpus" test "$config" "$checkpoint" "$@"
