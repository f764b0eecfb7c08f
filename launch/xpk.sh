#!/usr/bin/env bash
# One or several slices of TPUs of a GKE cluster, through XPK:
#
#     bash launch/xpk.sh --name=my-run --cluster=my-cluster --project=my-project \
#       --zone=us-east5-a --type=v5p-128 [--num_slices=2] --bucket=gs://my-bucket/runs \
#       [--image=python:3.12] [--restarts=10] [--dry_run] \
#       -- python -m experiments.pretrain --config=... --workdir=runs/x \
#          --config.layout.slices=2 --config.data.directory=/tmp/llmjax
#
# `pip install xpk` gives `xpk`, and `xpk cluster create` a cluster. This folder is put
# onto the image, whose Python must be one that constraints/ has pins for. The workdir
# becomes a folder of the bucket, where all hosts write. A job that loses a host starts
# again, --restarts times, from the last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/flags.sh

name="" cluster="" project="" zone="" type="" bucket=""
num_slices=1 image=python:3.12 restarts=10
parse "name cluster project zone type bucket num_slices image restarts" "$@"
need name cluster type bucket
need_place
bucket=$(checked_bucket bucket "$bucket")
need_numbers num_slices restarts
((num_slices > 0)) || fail "--num_slices=$num_slices; at least 1"
[[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  fail "--name=$name: up to 40 of a-z, 0-9 and -, beginning with a letter"
[[ $type =~ ^(v4|v5p|v5litepod|v6e|tpu7x)-[1-9][0-9x]*$ ]] ||
  fail "--type=$type is no TPU type of XPK, as v5p-128, v5litepod-256 or v6e-256 are"
workdir_into_bucket

# 1: what jax's survivors of a lost host end with; 128 and above restart by themselves
run xpk workload create --workload="$name" --cluster="$cluster" --project="$project" \
  --zone="$zone" --tpu-type="$type" --num-slices="$num_slices" \
  --base-docker-image="$image" --script-dir="$PWD" --max-restarts="$restarts" \
  --restart-on-exit-codes=1 --termination-grace-period-seconds=120 \
  --command="EXTRAS=tpu,gcs bash launch/local.sh --hosts -- $(quoted "${command[@]}")"
