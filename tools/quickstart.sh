#!/usr/bin/env bash
# From a fresh clone to a distilled detector: bash tools/quickstart.sh [--seed N] [--iterations N] [--train-teacher]
# Builds the environment if it is missing (another one: PYTHON=...), then runs tools/quickstart.py.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ -n "${PYTHON:-}" ] || { bash "$tools/setup_env.sh" modern; PYTHON=$tools/../.venv/bin/python; }
. "$tools/python.sh"
exec "$PYTHON" "$tools/quickstart.py" "$@"
