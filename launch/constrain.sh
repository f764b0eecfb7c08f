#!/usr/bin/env bash
# Rewrites constraints/<minor>.txt for each Python given: the newest versions that
# setup.py allows, resolved in a fresh environment.
#
#     bash launch/constrain.sh python3.11 python3.12 python3.13
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh

if (($# == 0)); then
  echo "usage: bash launch/constrain.sh PYTHON [PYTHON ...]" >&2
  exit 2
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for python in "$@"; do
  minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  pins=constraints/$minor.txt
  echo "constrain: resolving for Python $minor, a few minutes"
  "$python" -m venv "$scratch/$minor"
  pip=("$scratch/$minor/bin/python" -m pip --disable-pip-version-check)
  "${pip[@]}" install --quiet --editable '.[report,dev]'
  "${pip[@]}" check
  mkdir -p constraints
  {
    echo "# Python $minor: what launch/env.sh installs."
    echo "# Made by: bash launch/constrain.sh python$minor"
    "${pip[@]}" freeze --all --exclude pip --exclude wheel --exclude-editable
  } >"$scratch/$minor.txt"
  mv "$scratch/$minor.txt" "$pins"
  echo "constrain: $pins pins $(grep -c == "$pins") packages"
done
