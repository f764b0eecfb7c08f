#!/usr/bin/env bash
# One machine with one or several GPUs of NVIDIA:
#
#     bash launch/gpu.sh [--processes=8] [--cuda=13|12] [--restarts=3] \
#       [--bucket=gs://my-bucket/runs] [--dry_run] \
#       -- python -m experiments.pretrain --config=... --workdir=runs/x
#
# One process drives all GPUs; with --processes=8 each of eight drives one of its own.
# --bucket: the workdir is copied there (launch/sync.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh
source launch/flags.sh

processes=1 cuda=13 restarts=3 bucket=""
parse "processes cuda restarts bucket" "$@"
need_numbers processes restarts
bucket=$(checked_bucket bucket "$bucket")
((processes > 0)) || fail "--processes=$processes; at least 1"
case $cuda in
  13) export EXTRAS=cuda ;;
  12) export EXTRAS=cuda12 ;;
  *) fail "--cuda=$cuda; accepted: 13, 12" ;;
esac
[[ -n $dry_run ]] || nvidia-smi --list-gpus >/dev/null ||
  fail "there is no GPU of NVIDIA here; launch/local.sh runs on a CPU"

each=()
((processes == 1)) || each=(--gpus=1)
[[ -z $dry_run ]] || echo "export EXTRAS=$EXTRAS"
exec bash launch/local.sh --processes="$processes" ${each[@]+"${each[@]}"} \
  --restarts="$restarts" ${bucket:+--bucket="$bucket"} ${dry_run:+--dry_run} \
  -- "${command[@]}"
