#!/usr/bin/env bash
# Cleans text files as an Apache Beam job. Arguments go to experiments/prepare_beam.py:
#
#     bash launch/beam.sh --input='texts/*.jsonl.gz' --directory=~/.cache/llmjax
#
# Beam bounds what the project pins higher, so it has an environment of its own,
# .venv-beam, of a Python that constraints/beam-*.txt has pins for; PYTHON names one.
# `bash launch/beam.sh -m MODULE ...` runs another module in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh

say() { echo "beam: $*" >&2; }

venv=$PWD/.venv-beam
minor() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}
if [[ ! -f constraints/beam-$(minor "$venv/bin/python").txt ]]; then
  for python in ${PYTHON:-python3 python3.12 python3.11}; do
    [[ ! -f constraints/beam-$(minor "$python").txt ]] || break
  done
  if [[ ! -f constraints/beam-$(minor "$python").txt ]]; then
    say "there are pins for Python" \
      "$(cd constraints && echo beam-*.txt | sed 's/beam-//g; s/\.txt//g') only;" \
      "name one, as in: PYTHON=/opt/python3.11/bin/python3 bash $0"
    exit 1
  fi
  say "making .venv-beam with Python $(minor "$python")"
  "$python" -m venv --clear "$venv"
fi

pins=constraints/beam-$(minor "$venv/bin/python").txt
stamp=$venv/.beam-installed
extras=${BEAM_EXTRAS:-beam} # launch/dataflow.sh wants beam,dataflow
wanted="$extras $(cat setup.py "$pins" | cksum)"
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
  say "installing the packages of $pins into .venv-beam, once, a few minutes"
  "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-input \
    --prefer-binary -e ".[$extras]" -c "$pins"
  echo "$wanted" >"$stamp"
fi

export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv JAX_PLATFORMS=cpu
[[ ${1:-} == -m ]] || set -- -m experiments.prepare_beam "$@"
exec python "$@"
