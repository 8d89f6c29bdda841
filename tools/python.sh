# Sourced by the shell tools: sets PYTHON to the caller's choice, the active virtual environment's
# interpreter, the one that tools/setup_env.sh made, or the PATH's, and PYTHONPATH to the checkout.
# launch GPUS TOOL [arguments] replaces the shell by GPUS processes of tools/TOOL, which end with it.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  if [ -n "${VIRTUAL_ENV:-}" ] || [ ! -x "$repo/.venv/bin/python" ]; then
    PYTHON=python
  else
    PYTHON=$repo/.venv/bin/python
  fi
fi
export PYTHON PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"

launch() {
  local gpus=$1 tool=$2
  shift 2
  export CANKD_LAUNCHER=$$
  exec "$PYTHON" "$repo/tools/launch.py" --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
    "$repo/tools/$tool" "$@" --launcher pytorch
}
