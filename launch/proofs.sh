#!/usr/bin/env bash
# The proofs behind the claims of README and docs/, at sizes that take minutes together;
# continuous integration runs them so that they stay runnable:
#
#     bash launch/proofs.sh
#
# At full size each is run by hand (the head of each file in tests/proofs/ says how).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/env.sh

export JAX_PLATFORMS=cpu
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1

summary="" failed=0

proof() {
  local name=$1 started=$SECONDS verdict=passed
  local module=tests.proofs.$name
  shift
  [[ -e tests/proofs/$name.py || -d tests/proofs/$name ]] || module=experiments.$name
  echo "proofs: $name $*"
  python -m "$module" "$@" || { verdict=FAILED && failed=1; }
  summary+=$(printf '%-14s %4d s  %s' "$name" $((SECONDS - started)) "$verdict")$'\n'
}

proof packing --quick
proof pipeline --quick
proof meshes --quick --steps=4 --model=decoder --model=dropless --mesh="fsdp 2 ring 2"
proof loader_memory --quick
proof storage --quick
proof hostile --quick
proof predict --quick
proof structured --quick
proof serve --quick

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
JAX_DISABLE_MOST_OPTIMIZATIONS=1 proof finetune_suite --quick --workdir="$scratch"

printf '\n%s' "$summary"
exit "$failed"
