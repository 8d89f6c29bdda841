# Sourced by the shell tools: sets PYTHON to the caller's choice, the active virtual environment's
# interpreter, the one that tools/setup_env.sh made, or the PATH's, and PYTHONPATH to the checkout.
# launch GPUS COMMAND [arguments] replaces the shell by GPUS processes of a command, which end with it.
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
  exec "$PYTHON" "$repo/tools/launch.py" "$@"
}
