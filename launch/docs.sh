#!/usr/bin/env bash
# The pages of docs/ as a website, in .cache/docs/html; a warning is an error. Arguments
# go to sphinx-build:
#
#     bash launch/docs.sh [-E] [-b linkcheck]
#
# Sphinx is installed once, in the versions of constraints/docs.txt, into a folder that
# only this script looks into: the environment of the other scripts stays as pinned.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/env.sh

say() { echo "docs: $*" >&2; }

pins=constraints/docs.txt
folder=$PWD/.cache/sphinx-$(cksum <"$pins" | cut -d' ' -f1)
if [[ ! -d $folder ]]; then
  say "installing the packages of $pins, once (40 MB)"
  rm -rf "$folder.part"
  python -m pip --disable-pip-version-check install --quiet --no-input --no-deps \
    --target "$folder.part" -r "$pins" ||
    { say "the installation failed, pip says why above" && exit 1; }
  mv "$folder.part" "$folder"
fi
export PYTHONPATH=$PWD:$folder${PYTHONPATH:+:$PYTHONPATH}
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3

python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet \
  --doctree-dir .cache/docs/doctrees docs .cache/docs/html "$@"
say "open .cache/docs/html/index.html"
