#!/usr/bin/env bash
# The plan's gate, as continuous integration runs it: every config is lowered for the
# TPUs that it names, those that compile in under two minutes are compiled and must fit,
# and the tests that need the TPU compiler run. No TPU is needed. Arguments go to
# experiments.plan_gate:
#
#     bash launch/plan.sh [--only=llama3] [--compile=all] [--workers=2]
#
# The compiler is installed once, in the version of constraints/tpu.txt, into a folder
# that only this script looks into: another jax would look for the TPU itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/env.sh

say() { echo "plan: $*" >&2; }

if ! python -c 'import libtpu' 2>/dev/null; then
  pins=constraints/tpu.txt
  folder=$PWD/.cache/libtpu-$(cksum <"$pins" | cut -d' ' -f1)
  if [[ ! -d $folder ]]; then
    say "installing the TPU compiler of $pins, once (200 MB)"
    rm -rf "$folder.part"
    python -m pip --disable-pip-version-check install --quiet --no-input --no-deps \
      --target "$folder.part" -r "$pins" ||
      { say "the installation failed, pip says why above" && exit 1; }
    mv "$folder.part" "$folder"
  fi
  export PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH}
fi

export JAX_PLATFORMS=cpu
export TF_CPP_MIN_LOG_LEVEL=3 # a jax older than the compiler prints how it fails to read a text
failed=0
python -m experiments.plan_gate "$@" || failed=1
python -m pytest tests/plan/test_compile.py || failed=1
exit "$failed"
