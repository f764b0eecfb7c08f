"""The scripts of launch/ that start runs: what they would do, and what they refuse."""

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAIN = "python -m experiments.pretrain --config=configs/x.py --config.a='b c'"
HERE = f"{MAIN} --workdir=runs/x"
THERE = f"{MAIN} --workdir=gs://bkt/f/runs/x"
PLACE = "--project=my-project --zone=us-east5-a"
AT = "--zone=us-east5-a --project=my-project"
TPU = f"--name=t {PLACE} --version=v2-alpha-tpuv5 --bucket=gs://bkt/f"
SLURM = "--name=r --nodes=4 --gpus=8 --time=24:00:00"
XPK = f"--name=r --cluster=c {PLACE} --type=v5p-128 --bucket=gs://bkt/f/"
CREATE = (
    f"gcloud compute tpus queued-resources create t --node-id=t {AT} "
    "--accelerator-type={} --runtime-version=v2-alpha-tpuv5 {}"
)
SSH = f"gcloud compute tpus tpu-vm ssh t {AT} --worker="
ON_GPUS = (
    "env LLMJAX_STEP_FILE=LOGS/{0}.step JAX_LOCAL_DEVICE_IDS={0} {1} "
    "--coordinator=localhost:PORT --process_id={0} --process_count=2"
)


def launch(script: str, line: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", f"launch/{script}.sh", *shlex.split(line)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def words(line: str) -> list[str]:
    """A line as a shell reads it, and so any line within that is a --command."""
    return shlex.split(line, comments=True)


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        (
            "tpu_vm",
            f"{TPU} --type=v5p-8 --capacity=on_demand",
            [
                CREATE.format("v5p-8", ""),
                "git archive --format=tar.gz --output=/tmp/llmjax.tar.gz HEAD",
                f"gcloud compute tpus tpu-vm scp /tmp/llmjax.tar.gz t: {AT} --worker=0",
                ...,
                f"{SSH}0 --command="
                + shlex.quote(
                    "cd llmjax && EXTRAS=tpu,gcs bash launch/local.sh --restarts=3 "
                    f"--bucket=gs://bkt/f -- {HERE}"
                ),
            ],
        ),
        (
            "tpu_pod",
            f"{TPU} --type=v5p-128 --datasets=gs://bkt/d",
            [
                CREATE.format("v5p-128", "--spot"),
                "git archive --format=tar.gz --output=/tmp/llmjax.tar.gz HEAD",
                "gcloud compute tpus tpu-vm scp /tmp/llmjax.tar.gz t: "
                f"{AT} --worker=all",
                ...,
                f"{SSH}all --command='mkdir -p ~/.cache/llmjax && gcloud storage rsync "
                "--recursive gs://bkt/d ~/.cache/llmjax'",
                f"{SSH}all --command="
                + shlex.quote(
                    "cd llmjax && EXTRAS=tpu,gcs bash launch/local.sh --hosts "
                    f"--restarts=3 -- {THERE}"
                ),
            ],
        ),
        (
            "xpk",
            f"{XPK} --num_slices=2",
            [
                f"xpk workload create --workload=r --cluster=c {PLACE} "
                "--tpu-type=v5p-128 --num-slices=2 --base-docker-image=python:3.12 "
                f"--script-dir={ROOT} --max-restarts=10 --restart-on-exit-codes=1 "
                "--termination-grace-period-seconds=120 --command="
                + shlex.quote(f"EXTRAS=tpu,gcs bash launch/local.sh --hosts -- {THERE}")
            ],
        ),
        (
            "slurm",
            f"{SLURM} --partition=gpu --cuda=12 --bucket=gs://bkt/f",
            [
                "sbatch --job-name=r --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 "
                "--cpus-per-task=8 --time=24:00:00 --partition=gpu --requeue "
                "--open-mode=append --signal=TERM@120 --output=runs/r-%j.log --wrap="
                + shlex.quote(
                    "set -e; export EXTRAS=cuda12; bash -c 'source launch/env.sh'; "
                    "bash launch/sync.sh --bucket=gs://bkt/f --workdir=runs/x -- "
                    "srun --kill-on-bad-exit=1 bash launch/local.sh --hosts -- " + HERE
                )
            ],
        ),
        (
            "gpu",
            "--processes=2",
            [
                "export EXTRAS=cuda",
                ON_GPUS.format(0, HERE),
                ON_GPUS.format(1, HERE) + " >LOGS/1.log 2>&1",
            ],
        ),
        (
            "local",
            "--bucket=gs://bkt/f",
            [
                "gcloud storage rsync --recursive gs://bkt/f/runs/x runs/x",
                f"env LLMJAX_STEP_FILE=LOGS/0.step {HERE}",
                "gcloud storage rsync --recursive --exclude='.*orbax-checkpoint-tmp.*' "
                "runs/x gs://bkt/f/runs/x",
                "gcloud storage rsync --recursive --exclude='.*orbax-checkpoint-tmp.*' "
                "--delete-unmatched-destination-objects runs/x/checkpoints "
                "gs://bkt/f/runs/x/checkpoints",
            ],
        ),
    ],
)
def test_dry_run_prints_whole_commands_and_starts_none(script, flags, expected):
    done = launch(script, f"{flags} --dry_run -- {HERE}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, wanted in zip(lines, expected, strict=True):
        if wanted is not ...:
            inner = [shlex.split(w) if " " in w else w for w in words(line)]
            assert inner == [shlex.split(w) if " " in w else w for w in words(wanted)]


@pytest.mark.parametrize(
    ("script", "line", "told"),
    [
        ("tpu_vm", f"{PLACE} -- {HERE}", "--name=... is missing"),
        ("tpu_vm", f"{TPU} --type=v5p-128 -- {HERE}", "--type=v5p-128 has several hos"),
        ("tpu_pod", f"{TPU} --type=v9-8 -- {HERE}", "--type=v9-8 is no accelerator"),
        ("tpu_pod", f"{TPU} --type=v5p-128 --nme=x -- {HERE}", "--nme is no flag;"),
        ("tpu_pod", f"{TPU} --type=v5p-8 --zone=us-east5 -- {HERE}", "--zone=us-east5"),
        (
            "tpu_pod",
            f"{TPU} --type=v5p-8 --capacity=a -- {HERE}",
            "--capacity=a; accep",
        ),
        ("tpu_pod", f"{TPU} --type=v5p-8 -- {MAIN}", "no --workdir"),
        (
            "tpu_pod",
            f"{TPU} --type=v5p-8 --bucket= -- {HERE}",
            "--bucket=... is missin",
        ),
        ("xpk", f"{XPK} --num_slices=0 -- {HERE}", "--num_slices=0"),
        ("xpk", f"{XPK} --bucket=bkt -- {HERE}", "--bucket=bkt must be gs://NAME"),
        ("xpk", XPK, "the command is missing"),
        ("slurm", f"{SLURM} --time=soon -- {HERE}", "--time=soon is no time"),
        ("slurm", f"{SLURM} --nodes=few -- {HERE}", "--nodes=few is no number"),
        ("gpu", f"--cuda=9 -- {HERE}", "--cuda=9; accepted: 13, 12"),
        ("gpu", f"--verbose -- {HERE}", "--verbose is no flag of the form --name=valu"),
        ("local", f"--dry_run --processes=0 -- {HERE}", "--processes: '0'"),
        ("sync", f"--bucket=gs://bkt --every=x --workdir=w -- {HERE}", "--every=x"),
    ],
)
def test_what_cannot_be_is_refused_by_name(script, line, told):
    done = launch(script, line)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


GCLOUD = """#!/usr/bin/env bash
# Copies to and from folders that stand for buckets.
set -euo pipefail
shift
verb=$1 delete="" paths=()
for argument in "${@:2}"; do
  case $argument in
    --delete*) delete=yes ;;
    --*) ;;
    *) paths+=("${argument/#gs:\\/\\//$BUCKETS/}") ;;
  esac
done
case $verb in
  ls)
    [[ -e ${paths[0]} ]] && exit
    echo "One or more URLs matched no objects." && exit 1
    ;;
  cp) cat >"${paths[1]}" ;;
  rsync)
    [[ -z $delete ]] || rm -r "${paths[1]}"
    mkdir -p "${paths[1]}" && cp -r "${paths[0]}/." "${paths[1]}"
    ;;
esac
"""


def test_a_workdir_comes_back_from_the_bucket_without_what_was_copied_in_part(tmp_path):
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(GCLOUD)
    gcloud.chmod(gcloud.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {
        "PATH": f"{gcloud.parent}:{os.environ['PATH']}",
        "BUCKETS": str(tmp_path),
    }

    def sync(workdir: str, line: str) -> int:
        flags = ["--bucket=gs://bkt/f", f"--workdir={tmp_path / workdir}/x"]
        shell = ["bash", "-c", f"cd {tmp_path / workdir}/x && {line}"]
        (tmp_path / workdir / "x").mkdir(parents=True, exist_ok=True)
        command = ["bash", "launch/sync.sh", *flags, "--", *shell]
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=60).returncode

    assert sync("one", "mkdir -p checkpoints/4 && echo a >checkpoints/4/a; exit 7") == 7
    copied = tmp_path / "bkt" / "f" / "x"
    assert (copied / "checkpoints" / "4" / "a").read_text() == "a\n"
    (copied / "checkpoints" / "8").mkdir()  # the machine went away meanwhile
    assert sync("two", "ls checkpoints >seen; mv checkpoints/4 checkpoints/12") == 0
    assert (tmp_path / "two" / "x" / "seen").read_text() == "4\n"
    assert [p.name for p in (copied / "checkpoints").iterdir()] == ["12"]
    assert (copied / "synced").read_text() == "12\n"
