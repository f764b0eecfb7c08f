#!/usr/bin/env bash
# A slice of a TPU pod: makes it, brings this repository to all of its hosts, and runs a
# command on each; a slice that is preempted is made again:
#
#     bash launch/tpu_pod.sh --name=my-pod --project=my-project --zone=us-east5-a \
#       --type=v5p-128 --version=v2-alpha-tpuv5 --bucket=gs://my-bucket/runs \
#       [--capacity=spot|reserved|on_demand] [--datasets=gs://my-bucket/datasets] \
#       [--restarts=10] [--dry_run] \
#       -- python -m experiments.pretrain --config=... --workdir=runs/x
#
# What is committed is what runs. The workdir becomes a folder of the bucket, where all
# hosts write; --datasets is copied to ~/.cache/llmjax of each. A host whose process is
# lost starts again up to three times, with all others, from the last checkpoint. The
# same command again goes on; the slice is left, to be deleted by hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/flags.sh
source launch/tpu.sh


parse_tpu "$@"
workdir_into_bucket

run_until_done all "cd llmjax && EXTRAS=tpu,gcs bash launch/local.sh --hosts --restarts=3\
 -- $(quoted "${command[@]}")"
