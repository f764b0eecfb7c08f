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
        ("slurm", f"{SLURM} --nodes=08 -- {HERE}", "--nodes=08 is no number"),
        ("slurm", f"{SLURM} --name=../../x -- {HERE}", "--name=../../x: up to 100"),
        ("slurm", f"{SLURM} --name= -- {HERE}", "--name=... is missing"),
        ("gpu", f"--processes={10**20} -- {HERE}", f"--processes={10**20} is no num"),
        ("gpu", f"--cuda=9 -- {HERE}", "--cuda=9; accepted: 13, 12"),
        ("gpu", f"--verbose -- {HERE}", "--verbose is no flag of the form --name=valu"),
        ("local", f"--dry_run --processes=0 -- {HERE}", "--processes: '0'"),
        (
            "local",
            f"--dry_run --processes={10**20} -- {HERE}",
            f"--processes: '{10**20}' is no number from 1 to ",
        ),
        ("sync", f"--bucket=gs://bkt --every=x --workdir=w -- {HERE}", "--every=x"),
    ],
)
def test_what_cannot_be_is_refused_by_name(script, line, told):
    done = launch(script, line)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


SOURCED = {"env", "flags", "help", "tpu"}  # by the others


@pytest.mark.parametrize(
    "script",
    sorted({path.stem for path in (ROOT / "launch").glob("*.sh")} - SOURCED),
)
def test_help_is_the_head_of_the_script_and_installs_nothing(script, tmp_path):
    programs = tmp_path / "bin"  # with no Python, nothing can be
    programs.mkdir()
    for name in ("bash", "basename", "dirname"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/bash", ROOT / "launch" / f"{script}.sh", "--help"],
        cwd=tmp_path,
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    head = (ROOT / "launch" / f"{script}.sh").read_text().split("\nset -euo")[0]
    lines = [line.removeprefix("#").removeprefix(" ") for line in head.splitlines()]
    assert done.stdout.splitlines() == lines[1:] and len(lines) > 3


HOSTILE = "--workdir='runs/$(touch ran)`touch ran` x;touch ran'"
TOUCHY = "'gs://bkt/$(touch ran);touch ran'"


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("slurm", f"{SLURM} --bucket={TOUCHY}"),
        ("slurm", SLURM),
        ("tpu_vm", f"{TPU} --type=v5p-8 --bucket={TOUCHY} --datasets={TOUCHY}"),
        ("tpu_pod", f"{TPU} --type=v5p-128 --bucket={TOUCHY} --datasets={TOUCHY}"),
        ("xpk", f"{XPK} --bucket={TOUCHY}"),
        ("local", f"--bucket={TOUCHY}"),
        ("gpu", f"--bucket={TOUCHY}"),
    ],
)
def test_a_shell_that_reads_the_printed_lines_runs_no_part_of_a_name(
    script, flags, tmp_path
):
    """What is in --wrap and --command is read once more, on another host."""
    done = launch(script, f"{flags} --dry_run -- {MAIN} {HOSTILE}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for word in [word for line in lines for word in words(line)]:
        name, _, inner = word.partition("=")
        lines += [inner] if name in ("--wrap", "--command") else []
    programs = tmp_path / "bin"
    (tmp_path / "llmjax").mkdir()
    programs.mkdir()
    (programs / "touch").symlink_to("/usr/bin/touch")
    for name in [
        "bash",
        "env",
        "gcloud",
        "git",
        "mkdir",
        "python",
        "sbatch",
        "srun",
        "sudo",
        "tar",
        "xpk",
    ]:
        (programs / name).symlink_to("/bin/true")
    for line in lines:
        subprocess.run(
            ["/bin/bash", "-c", line], cwd=tmp_path, env={"PATH": str(programs)}
        )
    assert not [*tmp_path.rglob("ran*")]


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
  cat) cat "${paths[0]}" ;;
  cp) cat >"${paths[1]}" ;;
  rsync)
    [[ -z $delete ]] || rm -r "${paths[1]}"
    mkdir -p "${paths[1]}" && cp -r "${paths[0]}/." "${paths[1]}"
    ;;
esac
"""


@pytest.fixture
def sync(tmp_path):
    """(name of a machine, command) -> the exit code of its sync.sh of workdir x."""
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(GCLOUD)
    gcloud.chmod(gcloud.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {
        "PATH": f"{gcloud.parent}:{os.environ['PATH']}",
        "BUCKETS": str(tmp_path),
    }

    def sync(machine: str, line: str) -> int:
        workdir = tmp_path / machine / "x"
        flags = ["--bucket=gs://bkt/f", f"--workdir={workdir}"]
        shell = ["bash", "-c", f"cd {workdir} && {line}"]
        workdir.mkdir(parents=True, exist_ok=True)
        command = ["bash", "launch/sync.sh", *flags, "--", *shell]
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=60).returncode

    return sync


def test_a_workdir_comes_back_from_the_bucket_without_what_was_copied_in_part(
    sync, tmp_path
):
    assert sync("one", "mkdir -p checkpoints/4 && echo a >checkpoints/4/a; exit 7") == 7
    copied = tmp_path / "bkt" / "f" / "x"
    assert (copied / "checkpoints" / "4" / "a").read_text() == "a\n"
    (copied / "checkpoints" / "8").mkdir()  # the machine went away meanwhile
    assert sync("two", "ls checkpoints >seen; mv checkpoints/4 checkpoints/12") == 0
    assert (tmp_path / "two" / "x" / "seen").read_text() == "4\n"
    assert [p.name for p in (copied / "checkpoints").iterdir()] == ["12"]
    assert (copied / "synced").read_text() == "12\n"


def test_what_is_here_and_newer_stays(sync, tmp_path):
    """Killed after step 20 was written and before it was copied; then on and on."""
    assert sync("one", "mkdir -p checkpoints/10 && echo 10 >rows") == 0
    here = tmp_path / "one" / "x"
    (here / "checkpoints" / "20").mkdir()
    (here / "rows").write_text("10\n20\n")
    (tmp_path / "bkt" / "f" / "x" / "checkpoints" / "15").mkdir()  # a part of one
    assert sync("one", "ls checkpoints >seen") == 0
    assert (here / "seen").read_text() == "10\n20\n"
    assert (here / "rows").read_text() == "10\n20\n"
    assert (tmp_path / "bkt" / "f" / "x" / "synced").read_text() == "10\n20\n"
    # another machine goes on, and then this one from there
    assert sync("two", "mv checkpoints/10 checkpoints/30 && echo 30 >rows") == 0
    assert sync("one", "ls checkpoints >seen") == 0
    assert (here / "seen").read_text() == "10\n20\n30\n"
    assert (here / "rows").read_text() == "30\n"


def test_a_bring_that_was_killed_is_done_again(sync, tmp_path):
    assert sync("one", "mkdir -p checkpoints/{10,20} && echo a >checkpoints/20/a") == 0
    here = tmp_path / "two" / "x"
    (here / "checkpoints" / "20").mkdir(parents=True)  # its file was still to come
    (here / ".here_before_bring").touch()
    assert sync("two", "cp checkpoints/20/a seen") == 0
    assert (here / "seen").read_text() == "a\n"
    assert not (here / ".here_before_bring").exists()
