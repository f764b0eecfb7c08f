#!/usr/bin/env bash
# The plan's gate, as continuous integration runs it: every config is lowered for the
# TPUs and for the GPUs that it names, those that compile for TPUs in under two minutes
# and a few for GPUs are compiled and must fit, and the tests that need a compiler run.
# Neither TPU nor GPU is needed. Arguments go to experiments.plan_gate:
#
#     bash launch/plan.sh [--only=llama3] [--compile=all] [--platform=all|tpu|gpu] \
#       [--workers=2]
#
# The compilers are installed once, in the versions of constraints/tpu.txt and
# constraints/plan-gpu.txt, into folders that only this script looks into: another jax
# would look for the devices itself. cuDNN (2 GB) is not among them: without it, GPUs'
# attention is XLA's here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/env.sh

say() { echo "plan: $*" >&2; }

# install MODULE FOLDER PINS WHAT: a compiler, unless there is one
install() {
  local folder
  folder=$PWD/.cache/$2-$(cksum <"$3" | cut -d' ' -f1)
  if python -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$1'))"; then
    return
  fi
  if [[ ! -d $folder ]]; then
    say "installing $4 of $3, once"
    rm -rf "$folder.part"
    python -m pip --disable-pip-version-check install --quiet --no-input --no-deps \
      --target "$folder.part" -r "$3" ||
      { say "the installation failed, pip says why above" && exit 1; }
    mv "$folder.part" "$folder"
  fi
  export PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH}
}

minor=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
install libtpu libtpu constraints/tpu.txt "the TPU compiler (200 MB)"
install jax_cuda12_plugin "cuda12-$minor" constraints/plan-gpu.txt \
  "the compiler for GPUs (590 MB)"

export JAX_PLATFORMS=cpu
export TF_CPP_MIN_LOG_LEVEL=3 # a jax older than the compiler prints how it fails to read a text
failed=0
python -m experiments.plan_gate "$@" || failed=1
python -m pytest tests/plan/test_compile.py || failed=1
exit "$failed"
