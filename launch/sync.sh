#!/usr/bin/env bash
# Runs a command whose workdir is a folder of this machine, and keeps a copy in a bucket:
#
#     bash launch/sync.sh --bucket=gs://my-bucket/runs --workdir=runs/x [--every=300] \
#       [--dry_run] -- COMMAND
#
# Where the bucket has a newer checkpoint than this machine, brings what it has of the
# workdir first, so that the run goes on from there; copies every so many seconds and at
# the end. $bucket/$workdir/synced lists the checkpoints that were copied whole: only
# these come back. The exit code is COMMAND's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh

say() { echo "sync: $*" >&2; }
fail() { say "$@" && exit 2; }

bucket="" workdir="" every=300 dry_run=""
while (($#)); do
  case $1 in
    --) shift && break ;;
    --bucket=*) bucket=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --every=*) every=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    *) fail "$1 is no flag; there are: --bucket, --workdir, --every, --dry_run" ;;
  esac
  shift
done
[[ $bucket == gs://?* ]] || fail "--bucket=$bucket must be gs://NAME or gs://NAME/FOLDER"
[[ -n $workdir && $workdir != *://* ]] || fail "--workdir=$workdir is no local folder"
[[ $every =~ ^[1-9][0-9]{0,8}$ ]] || fail "--every=$every is no number of seconds"
(($#)) || fail "the command is missing, after --"
copy=${bucket%/}/$workdir
[[ $workdir != /* ]] || copy=${bucket%/}/$(basename "$workdir")
unfinished='.*orbax-checkpoint-tmp.*'

bring=(gcloud storage rsync --recursive "$copy" "$workdir")
push=(gcloud storage rsync --recursive --exclude="$unfinished" "$workdir" "$copy")
prune=(gcloud storage rsync --recursive --exclude="$unfinished"
  --delete-unmatched-destination-objects "$workdir/checkpoints" "$copy/checkpoints")

if [[ -n $dry_run ]]; then
  printf '%q ' "${bring[@]}" && printf '# if the bucket has it\n'
  # what is started says itself what it would do
  "$@"
  printf '%q ' "${push[@]}" && printf '# every %s s and at the end\n' "$every"
  printf '%q ' "${prune[@]}" && printf '# then: old checkpoints go\n'
  exit
fi

steps() {
  [[ ! -d $workdir/checkpoints ]] ||
    find "$workdir/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' \
      ! -name '*orbax-checkpoint-tmp*' -exec basename {} \; | sort -n
}

# The last line of a list of steps; 0 of none.
latest() { tail -n 1 | grep . || echo 0; }

# Only what was downloaded is dropped: a checkpoint that was here before stays. $before
# lists those, and is there until all has come, so that a bring that was killed is done
# again.
bring_back() {
  local told step synced before=$workdir/.here_before_bring
  if ! told=$(gcloud storage ls "$copy/synced" 2>&1); then
    [[ $told == *"matched no objects"* ]] || fail "$bucket can't be read: $told"
    return 0
  fi
  synced=$(gcloud storage cat "$copy/synced")
  if [[ ! -f $before ]]; then
    step=$(steps | latest)
    if (($(latest <<<"$synced") <= step)) && ((step > 0)); then
      say "step $step of $workdir is no older than the bucket's: nothing is brought"
      return 0
    fi
    mkdir -p "$workdir"
    steps >"$before.part"
    mv "$before.part" "$before"
  fi
  "${bring[@]}"
  for step in $(steps); do
    grep -qx "$step" <<<"$synced" || grep -qx "$step" "$before" ||
      { say "step $step was not copied whole" && rm -r "$workdir/checkpoints/$step"; }
  done
  rm "$before"
}

copy_out() {
  local whole
  whole=$(steps)
  [[ -d $workdir ]] || return 0
  "${push[@]}" || return 1
  [[ -z $whole ]] || { gcloud storage cp - "$copy/synced" <<<"$whole" && "${prune[@]}"; }
}

bring_back
"$@" &
child=$!
trap 'kill -TERM "$child"' TERM INT
next=$((SECONDS + every))
while kill -0 "$child" 2>/dev/null; do
  if ((SECONDS >= next)); then
    copy_out || say "not copied this time; again in $every s"
    next=$((SECONDS + every))
  fi
  sleep 1
done
code=0
wait "$child" || code=$?
copy_out || say "the last copy failed: $workdir is here only"
exit "$code"
