#!/usr/bin/env bash
# scripts/lock.sh: writes requirements/*.lock anew, with the newest releases within the bounds of pyproject.toml. Needs `uv`.
#
# ci.lock    all that ./test, ./run and .ci/run install and what a build needs, for the Python of Debian 12 on x86-64
# cuda.lock  NVIDIA's compiler as packages, by requirements/cuda.in
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lock() {
  uv pip compile --quiet --upgrade --generate-hashes --no-header --annotation-style line --python-version 3.11 \
    --python-platform x86_64-unknown-linux-gnu "$@"
}
extras=()
for extra in demo data sweep docs notebooks test lint cuda; do extras+=(--extra "$extra"); done
python3 scripts/locked.py --declared-build | lock pyproject.toml - "${extras[@]}" --output-file requirements/ci.lock >/dev/null
lock requirements/cuda.in --no-deps --output-file requirements/cuda.lock >/dev/null
sed -i '1i # cpython 3.11 linux x86_64' requirements/ci.lock   # scripts/locked.py reads this line
