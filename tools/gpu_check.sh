#!/usr/bin/env bash
# Runs in under 9 minutes, offline, what needs a GPU: bash tools/gpu_check.sh OUT_DIR [--device cpu]
# The tests that are marked gpu, the benchmarks of the loss and of a training step, and the quickstart's training.
# Writes gpu_check.md, gpu_check.json and each part's log to OUT_DIR; the exit status tells whether a part failed.
# With --device cpu everything runs at small sizes, as a rehearsal. Another interpreter: PYTHON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/python.sh
exec "$PYTHON" -m tests.gpu_check "$@"
