#!/usr/bin/env bash
# First minutes on a GPU: build the checkout in place, then run stages, each in its time box. README.md beside this says which.
#
#   OUT=results bash benchmarks/gpu/session.sh [--rehearse] [--seconds N] [STAGE ...]
#   bash benchmarks/gpu/session.sh prepare          # here, without a GPU: what can be made before
set -u
started=$(date +%s)
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -z "${OUT:-}" ]; then
  OUT=$PWD/build/gpu/out
  echo "OUT is not set: results go to build/gpu/out"
fi
mkdir -p "$OUT" build/gpu || exit 1
export OUT
# The version in the metadata and the one compiled module: seconds, less where both are up to date. Who rehearses has them.
by_hand() { # where setuptools is too old for pyproject.toml
  suffix=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))') &&
    read -ra headers < <("$PYTHON" -m pybind11 --includes) && mkdir -p diffsmooth_trt.egg-info &&
    printf 'Metadata-Version: 2.1\nName: diffsmooth-trt\nVersion: %s\n' "$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
      >diffsmooth_trt.egg-info/PKG-INFO &&
    timeout 120 "${CXX:-g++}" -O3 -std=c++17 -fPIC -shared -fvisibility=hidden -ffp-contract=off -pthread "${headers[@]}" \
      csrc/*.cpp -o "diffsmooth_trt/_core$suffix"
}
if [[ " $* " == *" --rehearse "* ]] && "$PYTHON" -c "import diffsmooth_trt" 2>/dev/null; then
  :
elif ! timeout 120 "$PYTHON" setup.py -q egg_info build_ext --inplace >"$OUT/install.log" 2>&1; then
  echo "setup.py fails ($(tail -n 1 "$OUT/install.log")): compiling without it"
  by_hand >>"$OUT/install.log" 2>&1 || echo "the extension does not compile, see install.log: $(tail -n 1 "$OUT/install.log")"
fi
exec "$PYTHON" benchmarks/gpu/session.py --started "$started" "$@"
