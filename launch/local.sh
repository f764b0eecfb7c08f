#!/usr/bin/env bash
# Several processes of one run on this machine; when one is lost, the others end:
#
#     bash launch/local.sh --processes=4 [--devices=2] [--restarts=3] [--timeout=10] \
#       [--logs=DIR] [--bucket=gs://my-bucket/runs] [--dry_run] \
#       -- python -m experiments.pretrain --config=... --workdir=runs/x
#
# --devices makes each a CPU of so many devices, --gpus=1 gives each a GPU of its own.
# --hosts instead of --processes starts the one process of this host, of a run over
# several: a TPU pod, Slurm or Open MPI tells which.
#
# Says which process was lost, with what code or signal and after which step; with
# --restarts all start again, from the last checkpoint. The exit code is that of the lost
# process, 128 + its signal if one killed it, 143 where SIGTERM made the run save and end
# early, 2 for a mistake in the flags, else 0.
# A run may go on with another number of processes: its batches stay the same.
# --bucket: the workdir is copied there (launch/sync.sh).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source launch/help.sh

bucket="" dry="" flags=()
while (($#)); do
  case $1 in
    --) break ;;
    --bucket=*) bucket=${1#*=} ;;
    --dry_run) dry=yes && flags+=(--dry_run) ;;
    *) flags+=("$1") ;;
  esac
  shift
done
if [[ -n $bucket ]]; then
  # shellcheck source=launch/flags.sh
  source launch/flags.sh
  parse "" "$@"
  bucket=$(checked_bucket bucket "$bucket")
  exec bash launch/sync.sh ${dry:+--dry_run} --bucket="$bucket" --workdir="$workdir" \
    -- bash launch/local.sh ${flags[@]+"${flags[@]}"} "$@"
fi

if [[ -n $dry ]]; then
  python=python3 # nothing is started, so nothing is installed
else
  # shellcheck source=launch/env.sh
  source launch/env.sh
  python=python
fi
exec "$python" -m llmjax.parallel.processes.supervise ${flags[@]+"${flags[@]}"} "$@"
