#!/usr/bin/env bash
# Builds one of the two tested environments: bash tools/setup_env.sh [modern|paper] [options]
#
#   modern (default)  .venv        Python 3.10-3.13, torch 2.11.0, OneDL's OpenMMLab releases
#   paper             .venv-paper  Python 3.8-3.11, torch 2.0.1, the originals the paper used
#
#   --dir DIR            put the environment there instead
#   --python FILE        use this interpreter instead of looking for one
#   --torch VERSION      another torch (give the torchvision that belongs to it, too)
#   --torchvision VERSION
#   --tests              also what the tests need (pytest, ruff, mypy)
#
# Every finished step leaves a stamp, so a second call does nothing and a call after an
# interruption goes on where the last one stopped. Nothing outside DIR is changed: pip's
# cache and temporary files live in DIR/.setup until the environment is complete. They
# also must not be shared, since pip's cache does not know which torch an mmcv wheel was
# built against. FORCE_CUDA=1 builds mmcv's CUDA ops on a machine without a visible GPU.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stack=modern dir='' python='' torch='' torchvision='' tests=false

fail() { printf '\nsetup_env: %s\n' "$1" >&2; exit 1; }

while [ $# -gt 0 ]; do
  case $1 in
    modern|paper) stack=$1 ;;
    --tests) tests=true ;;
    --dir|--python|--torch|--torchvision)
      [ $# -ge 2 ] && [ "${2#--}" = "$2" ] || fail "$1 needs a value; see the head of tools/setup_env.sh."
      declare "${1#--}=$2"; shift ;;
    -h|--help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "got '$1'; expected modern, paper or an option (--help lists them)." ;;
  esac
  shift
done
[ -z "$torch" ] || [ -n "$torchvision" ] || fail "--torch $torch needs the --torchvision that belongs to it (torch 2.10.0 goes with torchvision 0.25.0, for example)."

if [ "$stack" = modern ]; then
  versions='3.12 3.11 3.13 3.10' mmcv=onedl-mmcv need_gb=10 default_dir=.venv setuptools=80.9.0
else
  versions='3.8 3.10 3.9 3.11' mmcv=mmcv need_gb=8 default_dir=.venv-paper setuptools=69.5.1
fi
pins=$repo/requirements/$stack.txt
dir=${dir:-$repo/$default_dir}
if [ -d "$dir" ] && [ ! -d "$dir/.setup" ] && [ -n "$(ls -A "$dir")" ]; then
  fail "$dir exists and was not made by this script. Choose another folder with --dir, or move it away."
fi
mkdir -p "$dir" 2>/dev/null || fail "cannot create $dir; choose a writable folder with --dir."
dir=$(cd "$dir" && pwd)
work=$dir/.setup
began=$SECONDS

# A torch override replaces the pin for everything that follows, later calls included.
mkdir -p "$work" 2>/dev/null || fail "cannot write to $dir; choose a writable folder with --dir."
if [ -n "$torch$torchvision" ]; then
  printf 'torch=%s torchvision=%s\n' "$torch" "$torchvision" >"$work/override"
elif [ -f "$work/override" ]; then
  # shellcheck disable=SC1091
  . "$work/override"
fi
sed -e "${torch:+s/^torch==.*/torch==$torch/}" \
    -e "${torchvision:+s/^torchvision==.*/torchvision==$torchvision/}" "$pins" >"$work/pins.txt"

# The stamp of a step depends on what it installs; changed pins redo it, changed comments do not.
key() { grep -hv '^#' "$work/pins.txt" "$@" | cksum | tr ' ' -; }
core_key=$(key) tests_key=$(key "$repo/requirements/tests.txt")

# Runs a command as one step: step NAME KEY CURE COMMAND...
step() {
  local name=$1 stamp=$work/$1.done log=$work/$1.log value=$2 cure=$3
  shift 3
  if [ "$(cat "$stamp" 2>/dev/null)" = "$value" ]; then
    return 0
  fi
  changed=true
  local start=$SECONDS line
  printf '[%4ds] %s ...\n' $((SECONDS - began)) "$name"
  # In a process group of its own, so that an interruption also reaches what pip started.
  set -m
  "$@" >"$log" 2>&1 &
  local pid=$!
  set +m
  trap 'kill -- -$pid 2>/dev/null || true; fail "interrupted in step $name; call it again to go on from there."' INT TERM HUP
  while kill -0 $pid 2>/dev/null; do
    sleep 0.5
    if [ $(((SECONDS - start) % 60)) -eq 59 ]; then
      # ninja's "[12/78]" is the progress of the one long step
      line=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$log" 2>/dev/null | tail -n 1 || true)
      printf '[%4ds] %s: still at work %s\n' $((SECONDS - began)) "$name" "${line# *}"
      sleep 1
    fi
  done
  if ! wait $pid; then
    trap - INT TERM HUP
    tail -n 15 "$log" >&2
    if grep -qE 'No space left' "$log"; then cure="free some disk space (about $need_gb GB are needed) and call it again."
    elif grep -qE 'ConnectionError|Temporary failure|timed out|NewConnectionError|Could not fetch|from versions: none|IncompleteRead|hash mismatch' "$log"; then
      cure="a download failed; check the connection to the package index (pip's --index-url or PIP_INDEX_URL for a mirror) and call it again."
    fi
    fail "step $name failed (whole log: $log). Cure: $cure"
  fi
  trap - INT TERM HUP
  printf '%s' "$value" >"$stamp"
  printf '[%4ds] %s done in %d s\n' $((SECONDS - began)) "$name" $((SECONDS - start))
}

# An interpreter on the PATH may be a shim that fails when run, and venv or the headers that
# mmcv's build needs may be packaged apart: each candidate is run before it is believed.
probe_python() {
  local candidate
  for candidate in "$@"; do
    "$candidate" - "$versions" <<'PY' 2>/dev/null && return 0
import os, sys, sysconfig
import ensurepip, venv
assert '%d.%d' % sys.version_info[:2] in sys.argv[1].split()
assert os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h'))
print(sys.executable)
PY
  done
  return 1
}

make_venv() { "$python" -m venv "$dir"; }
pip() { "$dir/bin/python" -m pip --disable-pip-version-check "$@"; }
install_build_tools() { pip install "pip==25.0.1" "setuptools==$setuptools" wheel==0.45.1 ninja==1.11.1.4 packaging==24.2; }
install_torch() { pip install -c "$work/pins.txt" torch torchvision numpy; }
# nvcc needs the CUDA headers that torch's wheels bring; without nvcc the path is just not used.
cuda_headers() { "$dir/bin/python" -c 'import glob, sysconfig; print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/include")))'; }
# mmcv's 78 files include torch's headers, which take nine tenths of their time. g++ can read them compiled; where the
# flags of both should differ, it says so in the log (-Winvalid-pch) and reads the text.
compile_torch_headers() {
  local flags
  "${CXX:-c++}" --version | grep -q 'Free Software Foundation' || return 0
  [[ $work != *[[:space:]]* ]] || return 0  # CFLAGS cannot quote it
  echo '#include <torch/types.h>' >"$work/tmp/torch.hpp"
  flags=$("$dir/bin/python" - <<'PY'
import setuptools  # brings distutils
from distutils.ccompiler import new_compiler
from distutils.sysconfig import customize_compiler

import torch
from torch.utils import cpp_extension

compiler = new_compiler()
customize_compiler(compiler)  # as for mmcv, with CFLAGS of the environment
print(*compiler.compiler_so[1:], *(f"-I{path}" for path in cpp_extension.include_paths()))
print("-std=c++14" if torch.__version__.startswith(("1.", "2.0.")) else "-std=c++17")
if "_GLIBCXX_USE_CXX11_ABI" in open(cpp_extension.__file__).read():
    print(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}")
PY
)
  # shellcheck disable=SC2086
  "${CXX:-c++}" $flags -x c++-header "$work/tmp/torch.hpp" -o "$work/tmp/torch.hpp.gch" || return 0
  export CFLAGS="$CFLAGS -include $work/tmp/torch.hpp -Winvalid-pch"
}
build_mmcv() {
  # A visible GPU makes mmcv build CUDA ops, which fails without nvcc.
  if [ "${FORCE_CUDA:-0}" != 1 ] && ! command -v nvcc >/dev/null; then export CUDA_VISIBLE_DEVICES=; fi
  export CPATH="$(cuda_headers)${CPATH:+:$CPATH}" MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}
  # Python's own flags, which newer setuptools leave out where CFLAGS is set; debug information takes as long as the code.
  export CFLAGS="$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("CFLAGS"))') ${CFLAGS:-} -g0"
  compile_torch_headers
  # Built anew each time: a cached or installed build may belong to another torch.
  pip install -v --no-deps --no-build-isolation --no-cache-dir --force-reinstall --no-binary "$mmcv" "$(grep "^$mmcv==" "$work/pins.txt")"
}
install_libraries() { pip install --no-deps --no-build-isolation -r "$work/pins.txt"; }
install_test_tools() { pip install --no-deps -r "$repo/requirements/tests.txt"; }
# The checkout itself goes on the path by a .pth file, which leaves no build files in it.
link_cankd() { echo "$repo" >"$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/cankd-checkout.pth"; }
check_import() {
  (cd "$work" && "$dir/bin/python" -W ignore -c 'import cankd.openmmlab, mmcv.ops, mmdet, mmseg, mmrazor; from mmrazor.registry import MODELS; assert MODELS.get("NLKDINLoss")')
}

changed=false
if [ "$(cat "$work/python.done" 2>/dev/null)" != "$stack" ] || [ ! -x "$dir/bin/python" ]; then
  changed=true
  rm -f "$work"/*.done
  if [ -n "$python" ]; then
    python=$(probe_python "$python") || fail "--python: expected an interpreter of version ${versions// /, } with venv and headers that runs; got none. Leave the option out to have one looked for."
  else
    candidates=()
    for v in $versions; do
      candidates+=("python$v")
      for managed in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$v".*/bin/python "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-"$v".*/bin/python"$v"; do
        [ ! -x "$managed" ] || candidates+=("$managed")
      done
    done
    python=$(probe_python "${candidates[@]}" python3 python) || fail "no usable Python found: the $stack stack needs one of ${versions// /, }, with venv and headers. Cure: install one (Debian/Ubuntu: apt-get install python3.11 python3.11-venv python3.11-dev; or pyenv, uv, conda) or name it with --python."
  fi
  command -v "${CXX:-c++}" >/dev/null || fail "no C++ compiler, which mmcv's operators are built with. Cure: install one (Debian/Ubuntu: apt-get install build-essential) or set CXX."
  free_gb=$(($(df -Pk "$dir" | awk 'NR == 2 {print $4}') / 1048576))
  [ "$free_gb" -ge "$need_gb" ] || fail "$dir has $free_gb GB free; the $stack stack needs about $need_gb GB while it is built. Cure: free some space or choose another disk with --dir."
  echo "cankd environment '$stack' in $dir, with $("$python" -V) ($python)"
fi

export PIP_CACHE_DIR=$work/cache TMPDIR=$work/tmp PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_USER=0
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_CONSTRAINT PIP_ONLY_BINARY PIP_NO_BINARY PIP_PYTHON
mkdir -p "$TMPDIR"

step python "$stack" "delete $dir and call it again." make_venv
step build-tools "$core_key" "read the log." install_build_tools
step torch "$core_key" "a torch that has a wheel for $("$dir/bin/python" -V): see --torch and --torchvision." install_torch
step mmcv "$core_key" "read the log; with CUDA, nvcc's version must be the one torch was built with. MAX_JOBS=1 needs less memory." build_mmcv
step libraries "$core_key" "read the log." install_libraries
if $tests; then step test-tools "$tests_key" "read the log." install_test_tools; fi
step cankd "$repo" "read the log." link_cankd
step check "$core_key" "delete $dir and call it again; if it fails again, report the log." check_import
rm -rf "$work/cache" "$work/tmp"

if $changed; then
  "$dir/bin/python" - <<'PY'
import torch
from mmcv.ops import get_compiling_cuda_version

if "not available" not in get_compiling_cuda_version():
    print("mmcv was built with its CUDA ops.")
elif torch.cuda.is_available():
    print("A GPU is visible, but mmcv was built without nvcc and has CPU ops only. Install the CUDA toolkit of torch "
          f"({torch.version.cuda}), delete this environment and call setup_env.sh again for the CUDA ops.")
else:
    print("No GPU is visible: mmcv has CPU ops only (FORCE_CUDA=1 builds the CUDA ops all the same).")
PY
  echo "Ready after $((SECONDS - began)) s: $dir/bin/python"
else
  echo "Nothing to do: $dir is complete."
fi
