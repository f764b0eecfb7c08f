# shellcheck shell=bash
# Sourced by the scripts that start a run somewhere: their flags, the checks of these,
# and --dry_run.
set -euo pipefail

script=$(basename "$0" .sh)
name="" project="" zone="" # a script's own defaults come after
say() { echo "$script: $*" >&2; }
fail() { say "$@" && exit 2; }

# Sets the variable of each --name=value, `dry_run`, and `command`: what follows --.
# $1: the names that there are.
parse() {
  local known=$1 argument given
  shift
  dry_run="" command=()
  while (($#)); do
    argument=$1
    shift
    given=${argument%%=*}
    given=${given#--}
    case $argument in
      --)
        command=("$@")
        break
        ;;
      --dry_run) dry_run=yes ;;
      --?*=*)
        [[ " $known " == *" $given "* ]] ||
          fail "--$given is no flag; there are: --${known// /, --}, --dry_run"
        printf -v "$given" %s "${argument#*=}"
        ;;
      *) fail "$argument is no flag of the form --name=value" ;;
    esac
  done
  [[ "${command[*]:0:2}" == "python -m" ]] ||
    fail "the command is missing: -- python -m experiments.pretrain --config=..."
  workdir=""
  for argument in "${command[@]}"; do
    [[ $argument != --workdir=* ]] || workdir=${argument#--workdir=}
  done
  workdir=${workdir%/}
  [[ -n $workdir ]] || fail "the command has no --workdir=..."
}

# Stops unless each of these flags was given.
need() {
  local wanted
  for wanted in "$@"; do
    [[ -n ${!wanted} ]] || fail "--$wanted=... is missing; see the head of $0"
  done
}

# Stops unless each of these flags is a number that a shell can count with.
need_numbers() {
  local wanted
  for wanted in "$@"; do
    [[ ${!wanted} =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
      fail "--$wanted=${!wanted} is no number from 0 to 999999"
  done
}

# Stops unless --name can name a job and its files.
need_name() {
  [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$ ]] ||
    fail "--name=$name: up to 100 of A-Z, a-z, 0-9, _, . and -, no . or - first"
}

# Prints $2, which --$1 gave, without a / at its end; stops unless it is empty or names
# a bucket or a folder of one.
checked_bucket() {
  [[ -z $2 || $2 =~ ^gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[^*]*)?$ ]] ||
    fail "--$1=$2 must be gs://NAME or gs://NAME/FOLDER"
  echo "${2%/}"
}

need_place() {
  need project zone
  [[ $project =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] ||
    fail "--project=$project is no project id: 6 to 30 of a-z, 0-9 and -"
  [[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
    fail "--zone=$zone is no zone, as europe-west4-b is"
}

# Of several hosts: each writes its own part of a checkpoint, so the workdir is where
# all can reach it. Puts a relative one into the bucket.
workdir_into_bucket() {
  local k
  [[ $workdir != gs://* ]] || return 0
  [[ -n $bucket ]] || fail "--bucket=... is missing: the hosts don't share $workdir"
  [[ $workdir != /* ]] || fail "--workdir=$workdir: give a relative one, for $bucket"
  for k in "${!command[@]}"; do
    [[ ${command[k]} != --workdir=* ]] || command[k]=--workdir=$bucket/$workdir
  done
  workdir=$bucket/$workdir
}

# Its arguments as one line that a shell reads back.
quoted() {
  local line
  printf -v line ' %q' "$@"
  printf '%s\n' "${line# }"
}

# Runs a command, or prints it.
run() {
  if [[ -n $dry_run ]]; then quoted "$@"; else "$@"; fi
}
