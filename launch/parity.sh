#!/usr/bin/env bash
# Every family of llmjax.hub against transformers, on fresh shapes, after chat templates
# and tokenizers, and a classifier's and a tagger's way to its pipelines. Arguments go to
# tests/parity/live.py:
#
#     bash launch/parity.sh [--seed=7] [llama qwen3/tied ...]
#
# What fine-tuning adds has runs of its own: losses, heads and metrics of all tasks
# against transformers, sentence-transformers and TRL, tasks of lm-eval beside its own
# model, and adapters against peft:
#
#     bash launch/parity.sh tasks
#     bash launch/parity.sh peft
#
# The reference has an environment of its own, .venv-parity, of a Python that
# constraints/parity-*.txt has pins for; PYTHON names one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh

say() { echo "parity: $*" >&2; }

venv=$PWD/.venv-parity
minor() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}
if [[ ! -f constraints/parity-$(minor "$venv/bin/python").txt ]]; then
  for python in ${PYTHON:-python3 python3.11}; do
    [[ ! -f constraints/parity-$(minor "$python").txt ]] || break
  done
  if [[ ! -f constraints/parity-$(minor "$python").txt ]]; then
    say "there are pins for Python" \
      "$(cd constraints && echo parity-*.txt | sed 's/parity-//g; s/\.txt//g') only;" \
      "name one, as in: PYTHON=/opt/python3.11/bin/python3 bash $0"
    exit 1
  fi
  say "making .venv-parity with Python $(minor "$python")"
  "$python" -m venv --clear "$venv"
fi
unset PYTHON
export VIRTUAL_ENV=$venv
source launch/env.sh

pins=constraints/parity-$(minor python).txt
stamp=$VIRTUAL_ENV/.parity-installed
wanted=$(cat setup.py "$pins" | cksum)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
  install=(python -m pip --disable-pip-version-check install --no-input)
  torch=$(grep ^torch== "$pins")
  # The build without CUDA, on Linux a tenth of the size: pip's own sources may have
  # it, else PyTorch's index has. Elsewhere there is no other.
  from=() size="200 MB of torch, the build for CPUs,"
  if [[ $(uname) == Linux ]] &&
    ! "${install[@]}" --quiet --dry-run --no-deps "$torch+cpu" >/dev/null 2>&1; then
    from=(--index-url https://download.pytorch.org/whl/cpu)
    if ! "${install[@]}" --quiet --dry-run --no-deps "${from[@]}" "$torch+cpu" \
      >/dev/null 2>&1; then
      from=() size="3 GB of torch with CUDA, as no build for CPUs is to be found,"
    fi
  fi
  say "installing $size and 60 MB of packages of $pins into .venv-parity, once"
  "${install[@]}" --quiet "${from[@]}" --no-deps "$torch"
  "${install[@]}" --quiet -e '.[report,dev,parity]' -c "$pins" \
    -c "constraints/$(minor python).txt"
  echo "$wanted" >"$stamp"
fi

export JAX_PLATFORMS=cpu TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
# tiny programs compile in half the time; the jax that is pinned here knows the flag
export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_use_fusion_emitters=false"
if [[ ${1:-} == tasks || ${1:-} == peft ]]; then
  libraries=$VIRTUAL_ENV/libraries
  python -m pip --disable-pip-version-check install --quiet --no-input --no-deps \
    --upgrade --target "$libraries" -r constraints/parity-libraries.txt
  if [[ $1 == peft ]]; then
    PYTHONPATH=$PWD:$libraries exec python -m tests.parity.adapters
  fi
  python -m tests.parity.class_losses
  python -m tests.parity.problems
  python -m tests.parity.embeddings
  python -m tests.parity.written
  python -m tests.parity.preferences --trl="$libraries"
  export PYTHONPATH=$PWD:$libraries HF_DATASETS_OFFLINE=1
  python tests/proofs/beside_transformers.py --quick
  exec python -m tests.parity.lm_eval_hf
fi
python -m tests.parity.chats
python -m tests.parity.pipelines
python -m tests.parity.taggers
python -m tests.parity.heads
exec python -m tests.parity.live "$@"
