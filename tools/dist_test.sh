#!/usr/bin/env bash
# Evaluates with GPUS processes: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT. Another interpreter: PYTHON.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
config=$1 checkpoint=$2 gpus=$3
shift 3
exec "$PYTHON" -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
  "$repo/tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
