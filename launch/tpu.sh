# shellcheck shell=bash
# Sourced by tpu_vm.sh and tpu_pod.sh: a TPU made, filled with this repository, and told
# what to run.
name="" project="" zone="" type="" version="" bucket="" datasets=""
capacity=spot restarts=10

parse_tpu() {
  parse "name project zone type version bucket datasets capacity restarts" "$@"
  need name type version
  need_place
  bucket=$(checked_bucket bucket "$bucket")
  datasets=$(checked_bucket datasets "$datasets")
  need_numbers restarts
  [[ $name =~ ^[a-z]([a-z0-9-]{0,60}[a-z0-9])?$ ]] ||
    fail "--name=$name: a-z, 0-9 and -, beginning with a letter"
  [[ $type =~ ^(v[2-4]|v5p|v5litepod|v6e)-[1-9][0-9]*$ ]] ||
    fail "--type=$type is no accelerator type, as v5p-128, v5litepod-16 or v6e-8 are"
  case $capacity in
    spot) tier=(--spot) ;;
    reserved) tier=(--reserved) ;;
    on_demand) tier=() ;;
    *) fail "--capacity=$capacity; accepted: spot, reserved, on_demand" ;;
  esac
  where=(--zone="$zone" --project="$project")
}

# The state of the TPU; nothing where there is none.
state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>/dev/null || true
}

# Asks for the TPU if there is none, and waits for it.
provide() {
  local now=""
  [[ -n $dry_run ]] || now=$(state)
  case $now in
    SUSPEND* | FAILED | DELETING) remove && now="" ;; # never comes back by itself
  esac
  if [[ -z $now ]]; then
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" \
      "${where[@]}" --accelerator-type="$type" --runtime-version="$version" \
      ${tier[@]+"${tier[@]}"}
  fi
  [[ -z $dry_run ]] || return 0
  while now=$(state) && [[ $now != ACTIVE ]]; do
    [[ $now != FAILED ]] || { say "no $type was to be had in $zone" && exit 1; }
    say "$name is ${now:-not there yet}"
    sleep 30
  done
}

remove() {
  run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

# Copies what is committed to worker(s) $1, with a Python and the packages.
fill() {
  run git archive --format=tar.gz --output=/tmp/llmjax.tar.gz HEAD
  run gcloud compute tpus tpu-vm scp /tmp/llmjax.tar.gz "$name:" "${where[@]}" \
    --worker="$1"
  remote "$1" "mkdir -p llmjax && tar -xzf llmjax.tar.gz -C llmjax &&\
 { command -v python3.13 python3.12 python3.11 >/dev/null ||\
 { sudo apt-get update -qq && sudo apt-get install -qq -y python3.11-venv; }; } &&\
 cd llmjax && export EXTRAS=tpu,gcs && bash -c 'source launch/env.sh'"
  [[ -z $datasets ]] || remote "$1" "mkdir -p ~/.cache/llmjax &&\
 gcloud storage rsync --recursive $(quoted "$datasets") ~/.cache/llmjax"
}

# Runs a line of a shell on worker(s) $1.
remote() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

# Runs the line $2 on worker(s) $1 until it ends and the TPU is still there; one that
# was preempted on the way is made again, --restarts times.
run_until_done() {
  local code left=$restarts
  while true; do
    provide
    fill "$1"
    code=0
    remote "$1" "$2" || code=$?
    [[ -z $dry_run ]] || break
    sleep 60 # the state of a TPU that was preempted lags
    [[ $(state) != ACTIVE ]] || break
    ((left > 0)) || { say "preempted, and no restarts are left" && exit 1; }
    left=$((left - 1))
    say "preempted; $left restarts left"
    remove
  done
  say "to give the TPU back: $(dry_run=yes && remove)"
  exit "$code"
}
