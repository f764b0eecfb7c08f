#!/usr/bin/env bash
# One TPU VM: makes it, brings this repository there, and runs a command on it:
#
#     bash launch/tpu_vm.sh --name=my-tpu --project=my-project --zone=europe-west4-b \
#       --type=v5litepod-8 --version=v2-alpha-tpuv5-lite --bucket=gs://my-bucket/runs \
#       [--capacity=spot|reserved|on_demand] [--datasets=gs://my-bucket/datasets] \
#       [--restarts=10] [--dry_run] \
#       -- python -m experiments.pretrain --config=... --workdir=runs/x
#
# What is committed is what runs. --datasets is copied to ~/.cache/llmjax, the default of
# data.directory. The workdir is copied to the bucket, and back when a preempted VM was
# made again. The same command again goes on; the VM is left, to be deleted by hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/flags.sh
source launch/tpu.sh


parse_tpu "$@"
need bucket
((${type##*-} <= 8)) || fail "--type=$type has several hosts; launch/tpu_pod.sh runs on all"
[[ $workdir != *://* && $workdir != /* ]] ||
  fail "--workdir=$workdir: give a relative folder, which is copied to $bucket"

run_until_done 0 "cd llmjax && EXTRAS=tpu,gcs bash launch/local.sh --restarts=3\
 $(quoted --bucket="$bucket" -- "${command[@]}")"
