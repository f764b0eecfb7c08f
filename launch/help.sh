# shellcheck shell=bash
# Sourced first by the other scripts: --help prints the comment at the head of a script,
# and nothing is installed or started.
if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  while IFS= read -r line; do
    [[ $line == "#"* ]] || break
    [[ $line == "#!"* ]] || { line=${line#\#} && echo "${line# }"; }
  done <"launch/$(basename "$0")"
  exit
fi
