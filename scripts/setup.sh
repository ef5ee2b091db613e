# Everything between a fresh Debian 12 and a built bytegolf; sourced by ./run, ./test and .ci/run.
#
# setup EXTRAS [TESTS] [WERROR]  makes .venv, installs what is missing, builds and installs the package (editable).
# A stamp in .venv holds a hash of all that went in, so that a second call with nothing changed does nothing.
#
# BYTEGOLF_CUDA in the environment: AUTO (CUDA kernels when nvcc is found), OFF, or ON (brings NVIDIA's compiler when there is none).
# shellcheck shell=bash

BUILD_DIR=build/dev   # one CMake folder for the module and the C++ tests, so that the core is compiled once
SETUP_LOG=build/setup.log
CUDA_DIR=build/cuda-toolkit   # NVIDIA's compiler as Python packages, where no toolkit is installed

say() { printf '\033[2m[%s]\033[0m %s\n' "$1" "$2" >&2; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$1" >&2; exit "${2:-1}"; }

[ -t 2 ] || say() { printf '[%s] %s\n' "$1" "$2" >&2; }

# step TEXT COMMAND...: runs it with its output in the log, shows how far a build is on a terminal, and on failure the log's end.
step() {
  local text=$1 started=$SECONDS from status=0 last shown=0
  shift
  mkdir -p build
  from=$(wc -l <"$SETUP_LOG" 2>/dev/null || echo 0)
  say setup "$text ..."
  set -m   # a process group of its own, so that Ctrl-C ends compilers too
  "$@" >>"$SETUP_LOG" 2>&1 </dev/null &
  local job=$!
  set +m
  trap 'kill -TERM -- -$job 2>/dev/null; wait $job 2>/dev/null; printf "\ninterrupted; call again to continue\n" >&2; exit 130' INT TERM
  if [ -t 2 ]; then
    while kill -0 $job 2>/dev/null; do
      sleep 0.5
      last=$(tail -n +"$((from + 1))" "$SETUP_LOG" | grep -oE '\[[0-9]+/[0-9]+\]' | tail -1 || true)
      if [ $((SECONDS - started)) -ge 2 ]; then
        printf '\r\033[K        %s s %s' "$((SECONDS - started))" "$last" >&2
        shown=1
      fi
    done
    [ $shown = 0 ] || printf '\r\033[K' >&2
  fi
  wait $job || status=$?
  trap - INT TERM
  if [ $status -ne 0 ]; then
    tail -n +"$((from + 1))" "$SETUP_LOG" | tail -60 >&2
    fail "this step failed: $text (whole log: $SETUP_LOG)" "$status"
  fi
}

# A Python of at least 3.11: Debian's own first, since python3-dev from apt fits it.
find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

# Names of the Debian packages that are missing; $1 = 1 adds those of the C++ tests.
missing_packages() {
  local tests=$1 python=$2 missing=() row header
  command -v g++ >/dev/null || missing+=(g++)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v ninja >/dev/null || missing+=(ninja-build)
  # The sandbox of `verify`, for its tests; they make do without where nobody may install it.
  if [ "$tests" = 1 ] && [ "$(id -u)" = 0 ] && ! command -v bwrap >/dev/null; then missing+=(bubblewrap); fi
  if [ -z "$python" ]; then
    missing+=(python3 python3-venv python3-dev)
  else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
      missing+=(python3-dev)
  fi
  local rows=("zstd.h libzstd-dev" "hwy/highway.h libhwy-dev")
  [ "$tests" = 0 ] || rows+=("gtest/gtest.h libgtest-dev" "gmock/gmock.h libgmock-dev")
  for row in "${rows[@]}"; do
    header=${row% *}
    if ! command -v g++ >/dev/null ||
      ! printf '#if !__has_include(<%s>)\n#error missing\n#endif\n' "$header" | g++ -E -x c++ - >/dev/null 2>&1; then
      missing+=("${row#* }")
    fi
  done
  echo "${missing[*]}"
}

install_packages() {
  local missing=$1
  [ -n "$missing" ] || return 0
  local line="apt-get install -y --no-install-recommends $missing"
  command -v apt-get >/dev/null || fail "missing: $missing (Debian's names; install them and call again)" 2
  if [ "$(id -u)" != 0 ]; then
    fail "system packages are missing; run this line, then call again:
  sudo apt-get update && sudo $line" 2
  fi
  export DEBIAN_FRONTEND=noninteractive
  step "Reading the list of system packages" apt-get -o DPkg::Lock::Timeout=300 update
  # shellcheck disable=SC2086
  step "Installing system packages: $missing" ${line/apt-get/apt-get -o DPkg::Lock::Timeout=300}
}

# The CUDA compiler that a build uses: CUDACXX, else nvcc from the PATH, NVIDIA's usual place or $CUDA_DIR; "" when there is none.
cuda_compiler() {
  if [ -n "${CUDACXX:-}" ]; then
    echo "$CUDACXX"
  elif command -v nvcc; then
    return
  elif [ -x /usr/local/cuda/bin/nvcc ]; then
    echo /usr/local/cuda/bin/nvcc
  elif [ -x $CUDA_DIR/nvcc ]; then
    readlink -f $CUDA_DIR/nvcc
  fi
}

# Compiler, headers and static runtime; about 1 GB, of which cuBLAS (for its headers) is the most.
cuda_from_packages() {
  local root
  rm -rf $CUDA_DIR
  "$1" -m venv $CUDA_DIR || return
  $CUDA_DIR/bin/pip install --disable-pip-version-check --no-deps --require-hashes -r requirements/cuda.lock || return
  root=$(echo "$PWD/$CUDA_DIR"/lib/python3*/site-packages/nvidia/cu13)
  [ -x "$root/bin/nvcc" ] || return
  ln -sfn lib "$root/lib64"   # where nvcc looks
  ln -s "$root/bin/nvcc" $CUDA_DIR/nvcc
}

# Hash of what the build depends on: contents of sources, names of Python files (editable: their contents are read live).
source_hash() {
  {
    echo "$PWD" "$@"
    find csrc tests_cpp CMakeLists.txt pyproject.toml requirements scripts/setup.sh scripts/locked.py -type f -print0 2>/dev/null | sort -z | xargs -0 sha256sum
    find python -name '*.py' -o -name '*.pyi' | sort
  } | sha256sum | cut -d' ' -f1
}

venv_is_ours() {
  [ -x .venv/bin/python ] && [ "$(cat .venv/bytegolf-path 2>/dev/null)" = "$PWD" ] && .venv/bin/python -c '' 2>/dev/null
}

make_venv() {
  rm -rf .venv
  "$1" -m venv .venv
  # Where the folder lay when the environment was made: a moved folder gets a new one.
  echo "$PWD" >.venv/bytegolf-path
}

# What requirements/ci.lock has for these extras, into .venv/locked.txt; without that file pyproject.toml's bounds decide.
choose_lock() {
  local reason
  if reason=$(.venv/bin/python scripts/locked.py --extras "$1" 2>&1 >.venv/locked.txt); then return 0; fi
  rm -f .venv/locked.txt
  say setup "packages are installed by pyproject.toml's bounds, without hashes: $reason"
}

build_requirements() {
  if [ -f .venv/locked.txt ]; then
    .venv/bin/pip install --disable-pip-version-check --require-hashes -r .venv/locked.txt
    return
  fi
  .venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' >.venv/build-requires.txt
  .venv/bin/pip install --disable-pip-version-check -r .venv/build-requires.txt
}

# Compiles and installs in one go; the CMake folder is kept, so that only what changed is compiled again.
build_package() {
  local extras=$1 tests=$2 werror=$3 nvcc=$4
  export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
  if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
  local args=(--config-settings=build-dir="$BUILD_DIR")
  local cuda=OFF
  if [ -n "$nvcc" ]; then
    cuda=$([ "${BYTEGOLF_CUDA:-AUTO}" = ON ] && echo ON || echo AUTO)
    export CUDACXX=$nvcc CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER:-}
    # What CMake once did not find it does not look for again.
    if grep -q '^CMAKE_CUDA_COMPILER:.*NOTFOUND' $BUILD_DIR/CMakeCache.txt 2>/dev/null; then rm -rf $BUILD_DIR; fi
  fi
  args+=(--config-settings=cmake.define.BYTEGOLF_CUDA=$cuda)
  [ "$tests" = 0 ] || args+=(--config-settings=cmake.define.BYTEGOLF_TESTS=ON)
  args+=(--config-settings=cmake.define.BYTEGOLF_WERROR="$([ "$werror" = 1 ] && echo ON || echo OFF)")
  # A folder configured for another Python or another place is of no use.
  if [ -f $BUILD_DIR/CMakeCache.txt ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" $BUILD_DIR/CMakeCache.txt; then
    rm -rf $BUILD_DIR
  fi
  if [ -f .venv/locked.txt ]; then args+=(--no-deps); fi   # all are there, by their hashes
  .venv/bin/pip install -v --disable-pip-version-check --no-build-isolation "${args[@]}" -e ".[$extras]"
}

# setup EXTRAS TESTS WERROR: e.g. setup plots 0 0. Extras already installed stay.
setup() {
  local extras=$1 tests=${2:-0} werror=${3:-0} cuda=${BYTEGOLF_CUDA:-AUTO} nvcc='' stamp hash lock wanted
  case $cuda in
  AUTO | ON) nvcc=$(cuda_compiler) ;;
  OFF) ;;
  *) fail "BYTEGOLF_CUDA=$cuda; known: AUTO, ON, OFF" 2 ;;
  esac
  # Whose compiler comes from packages gets cuBLASLt from one too.
  if [ "$cuda" = ON ] && { [ -z "$nvcc" ] || [[ $nvcc == "$PWD/$CUDA_DIR"/* ]]; }; then extras=$extras,cuda; fi
  wanted=$(tr ',' '\n' <<<"$extras,$(cat .venv/bytegolf-extras 2>/dev/null)" | grep . | sort -u | paste -sd,)
  [ "$tests" = 1 ] || tests=$(cat .venv/bytegolf-tests 2>/dev/null || echo 0)
  [ "$werror" = 1 ] || werror=$(cat .venv/bytegolf-werror 2>/dev/null || echo 0)   # kept, as tests are: flags that change recompile everything
  stamp=.venv/bytegolf-stamp
  hash=$(source_hash "$wanted" "$tests" "$werror" "$cuda" "$nvcc")
  if [ "$(cat $stamp 2>/dev/null)" = "$hash" ]; then return 0; fi

  mkdir -p build
  exec {lock}>build/.setup-lock
  if command -v flock >/dev/null && ! flock -n "$lock"; then
    say setup "waiting for another set-up of this folder"
    flock "$lock"
    if [ "$(cat $stamp 2>/dev/null)" = "$hash" ]; then
      exec {lock}>&-
      return 0
    fi
  fi
  : >"$SETUP_LOG"
  local started=$SECONDS python
  python=$(find_python)
  install_packages "$(missing_packages "$tests" "$python")"
  [ -n "$python" ] || python=$(find_python)
  [ -n "$python" ] || fail "no Python of at least 3.11 was found" 2
  if ! venv_is_ours; then step "Making .venv with $("$python" --version) ($python)" make_venv "$python"; fi
  choose_lock "$wanted"
  step "Installing Python packages" build_requirements
  if [ "$cuda" = ON ] && [ -z "$nvcc" ]; then
    step "Installing NVIDIA's compiler (1 GB)" cuda_from_packages "$python"
    nvcc=$(cuda_compiler)
    hash=$(source_hash "$wanted" "$tests" "$werror" "$cuda" "$nvcc")
  elif [ -z "$nvcc" ] && [ "$cuda" = AUTO ] && [ -e /dev/nvidiactl ]; then
    say setup "there is a GPU but no CUDA compiler; BYTEGOLF_CUDA=ON in the environment brings one"
  fi
  step "Building the core and installing bytegolf[$wanted] (minutes the first time)" build_package "$wanted" "$tests" "$werror" "$nvcc"
  echo "$wanted" >.venv/bytegolf-extras
  echo "$tests" >.venv/bytegolf-tests
  echo "$werror" >.venv/bytegolf-werror
  echo "$hash" >$stamp
  exec {lock}>&-
  say setup "ready after $((SECONDS - started)) s"
}
