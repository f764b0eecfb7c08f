#!/usr/bin/env bash
# Style, types, scripts and tests, as continuous integration runs them; all parts run,
# and any that fails fails the whole. Arguments go to pytest:
#
#     bash launch/test.sh [--fast] [tests/models] [-k causal] [-x]
#
# --fast leaves out the tests marked `slow`, for a loop of minutes while working. Tests
# that need the TPU compiler are launch/plan.sh's.
#
# WORKERS=4 spreads the tests over processes, a file to each; the default is two, since
# most tests trace and compile small programs, which takes one core.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/env.sh

export JAX_PLATFORMS=cpu
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 # tests compile small programs

marked="not tpu_compiler and not gpu_compiler"
if [[ ${1:-} == --fast ]]; then
  marked+=" and not slow"
  shift
fi

summary="" failed=0

part() {
  local name=$1 started=$SECONDS verdict=passed
  shift
  echo "test: $name: $*"
  "$@" || { verdict=FAILED && failed=1; }
  summary+=$(printf '%-12s %4d s  %s' "$name" $((SECONDS - started)) "$verdict")$'\n'
}

part style python -m ruff check .
part format python -m ruff format --check .
part types python -m mypy llmjax experiments configs tests/proofs docs
part shell shellcheck -x launch/*.sh .ci/run
part tests python -m pytest -n "${WORKERS:-2}" --dist=loadfile --durations=10 \
  -m "$marked" "$@"

printf '\n%s' "$summary"
exit "$failed"
