#!/usr/bin/env bash
# From nothing to a report in runs/quickstart: prepares text, trains a tokenizer and a
# model, fine-tunes, evaluates, generates. Arguments go to experiments.quickstart:
#
#     bash launch/quickstart.sh [--quick] [--workdir=DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/env.sh

echo "quickstart: python -m experiments.quickstart --workdir=runs/quickstart $*"
exec python -m experiments.quickstart --workdir=runs/quickstart "$@"
