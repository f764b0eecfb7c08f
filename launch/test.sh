#!/usr/bin/env bash
# Style, types, scripts and tests, as continuous integration runs them; all parts run,
# and any that fails fails the whole. Arguments go to pytest:
#
#     bash launch/test.sh [tests/models] [-k causal] [-x]
#
# WORKERS=4 spreads the tests over processes, a file to each; the default is two, since
# most tests trace and compile small programs, which takes one core.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

export JAX_PLATFORMS=cpu
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 # tests compile small programs

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
part types python -m mypy llmjax experiments configs
part shell shellcheck -x launch/*.sh .ci/run
part tests python -m pytest -n "${WORKERS:-2}" --dist=loadfile --durations=10 "$@"

printf '\n%s' "$summary"
exit "$failed"
