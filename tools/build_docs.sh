#!/usr/bin/env bash
# Builds the documentation as a site; any warning is an error: bash tools/build_docs.sh [FOLDER, site by default]
# MkDocs is installed into .venv-docs the first time. PYTHON names another interpreter (3.10 to 3.13) for that, and
# REPOSITORY_URL the address that links to source files get.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv-docs pins=requirements/docs.txt
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || [ -n "${PYTHON:-}" ] || python=python3
if ! cmp -s "$pins" "$venv/installed.txt"; then
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$pins"
  cp "$pins" "$venv/installed.txt"
fi
export NO_MKDOCS_2_WARNING=1
"$venv/bin/python" -m mkdocs build --quiet --strict --config-file .mkdocs.yml --site-dir "$(realpath -m "${1:-site}")"
echo "Built the documentation in ${1:-site}."
