#!/usr/bin/env bash
# A Slurm cluster of GPUs: a job with a process for each GPU of each node:
#
#     bash launch/slurm.sh --name=my-run --nodes=4 --gpus=8 --time=24:00:00 \
#       [--partition=gpu] [--account=me] [--cpus=8] [--cuda=13|12] \
#       [--bucket=gs://my-bucket/runs] [--dry_run] \
#       -- python -m experiments.pretrain --config=... --workdir=runs/x
#
# From a folder that all nodes share; the workdir must be on a shared disk too. Two
# minutes before its time is over the run saves and ends with code 143, so that Slurm
# takes the job for no success; a job that was preempted it queues again itself. The same
# command again goes on. A process that is lost ends the job (srun --kill-on-bad-exit).
# --bucket: the workdir is copied there (launch/sync.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/flags.sh

name="" nodes="" gpus="" time="" partition="" account="" bucket="" cpus=8 cuda=13
parse "name nodes gpus time partition account cpus cuda bucket" "$@"
need name nodes gpus time
need_name
need_numbers nodes gpus cpus
bucket=$(checked_bucket bucket "$bucket")
((nodes > 0 && gpus > 0)) || fail "--nodes=$nodes and --gpus=$gpus; at least 1 of each"
[[ $time =~ ^([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}$ ]] ||
  fail "--time=$time is no time of Slurm: 90, 24:00:00 or 2-12:00:00"
case $cuda in
  13) extras=cuda ;;
  12) extras=cuda12 ;;
  *) fail "--cuda=$cuda; accepted: 13, 12" ;;
esac

# the packages once, before every process looks for them
lines="set -e; export EXTRAS=$extras; bash -c 'source launch/env.sh';"
[[ -z $bucket ]] ||
  lines+=" $(quoted bash launch/sync.sh --bucket="$bucket" --workdir="$workdir" --)"
lines+=" srun --kill-on-bad-exit=1 bash launch/local.sh --hosts -- $(quoted "${command[@]}")"

mkdir -p runs
run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" \
  --gpus-per-node="$gpus" --cpus-per-task="$cpus" --time="$time" \
  ${partition:+--partition="$partition"} ${account:+--account="$account"} \
  --requeue --open-mode=append --signal=TERM@120 --output="runs/$name-%j.log" \
  --wrap="$lines"
