#!/usr/bin/env bash
# Cleans text files of a bucket on Google's Dataflow, by experiments/prepare_beam.py:
#
#     bash launch/dataflow.sh --project=my-project --region=europe-west4 \
#       --bucket=gs://my-bucket --input='gs://my-bucket/texts/*.jsonl.gz' \
#       [--text_field=text] [--max_num_workers=64] [--dry_run] [flags of Beam]
#
# The dataset lies in $bucket/datasets then; bring it where `prepare` runs with
# `gcloud storage rsync --recursive`, and name its folder as data.source.
# --dry_run prints the command and starts nothing. Needs `gcloud auth
# application-default login`, and the Dataflow API enabled in the project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/help.sh

fail() { echo "dataflow: $*" >&2 && exit 2; }

project="" region="" bucket="" input="" dry_run="" more=()
workers=64
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    --project=*) project=$value ;;
    --region=*) region=$value ;;
    --bucket=*) bucket=${value%/} ;;
    --input=*) input=$value ;;
    --max_num_workers=*) workers=$value ;;
    --dry_run) dry_run=yes ;;
    --?*=*) more+=("$argument") ;;
    *) fail "$argument is no flag of the form --name=value" ;;
  esac
done

for name in project region bucket input; do
  [[ -n ${!name} ]] || fail "--$name=... is missing; see the head of $0"
done
[[ $project =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] ||
  fail "--project=$project is no project id: 6 to 30 of a-z, 0-9 and -"
[[ $region =~ ^[a-z]+-[a-z]+[0-9]+$ ]] ||
  fail "--region=$region is no region, as europe-west4 is (a zone has one part more)"
[[ $bucket =~ ^gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[^*]*)?$ ]] ||
  fail "--bucket=$bucket must be gs://NAME or gs://NAME/FOLDER"
[[ $workers =~ ^[1-9][0-9]*$ ]] || fail "--max_num_workers=$workers is no number"
IFS=, read -ra patterns <<<"$input"
for pattern in "${patterns[@]}"; do
  [[ $pattern == gs://?*/?* ]] ||
    fail "--input: the workers don't see ${pattern}; put the files in a bucket"
done

command=(
  bash launch/beam.sh
  --input="$input"
  --directory="$bucket/datasets"
  --runner=DataflowRunner
  --project="$project"
  --region="$region"
  --temp_location="$bucket/beam/temp"
  --staging_location="$bucket/beam/staging"
  --job_name="llmjax-prepare-$(date -u +%Y%m%d-%H%M%S)"
  --setup_file=./setup.py
  --requirements_file=launch/dataflow.txt
  --max_num_workers="$workers"
  ${more[@]+"${more[@]}"}
)
if [[ -n $dry_run ]]; then
  printf 'BEAM_EXTRAS=beam,dataflow'
  printf ' %q' "${command[@]}"
  printf '\n'
else
  BEAM_EXTRAS=beam,dataflow exec "${command[@]}"
fi
