#!/usr/bin/env bash
# Sets up what is missing and runs ruff, mypy and pytest on the modern stack; with --all pytest on the paper stack, too,
# without most of the slow tests, which the modern stack runs: bash tools/run_tests.sh [--all] [arguments of pytest]
# MODERN_PYTHON or PAPER_PYTHON names an existing environment's interpreter instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stacks=(modern)
if [ "${1:-}" = --all ]; then
  stacks+=(paper)
  shift
fi

# Most tests keep one core busy. More than two workers would need more than 16 GB.
parallel=(-n 2 --dist worksteal)
export OMP_NUM_THREADS=1
modern=${MODERN_PYTHON:-$PWD/.venv/bin/python}
paper=${PAPER_PYTHON:-$PWD/.venv-paper/bin/python}
# Both environments at once: one downloads while the other one compiles.
background=
trap '[ -z "$background" ] || kill "$background" 2>/dev/null || true' EXIT
if [ ${#stacks[@]} -eq 2 ] && [ -z "${PAPER_PYTHON:-}" ]; then
  bash tools/setup_env.sh paper --tests > >(sed 's/^/paper: /') 2>&1 &
  background=$!
fi
[ -n "${MODERN_PYTHON:-}" ] || bash tools/setup_env.sh modern --tests
[ -z "$background" ] || wait "$background"
background=
"$modern" -m ruff check .
"$modern" -m mypy

echo "== tests on the modern stack"
"$modern" -m pytest "${parallel[@]}" "$@"
[ ${#stacks[@]} -eq 2 ] || exit 0
echo "== tests on the paper stack"
# With arguments that choose other tests there may be none (5).
"$paper" -m pytest "${parallel[@]}" -m "not slow or libraries" "$@" || [ $? -eq 5 ]
