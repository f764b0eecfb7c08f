"""What can be said of the Beam job without Beam; `tests/proofs/beam.py` runs it."""

import pathlib
import re
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = {
    "project": "my-project",
    "region": "europe-west4",
    "bucket": "gs://my-bucket/",
    "input": "gs://my-bucket/a b/*.jsonl,gs://other/*.txt",
}


def dataflow(*more: str, **changes: str | None) -> subprocess.CompletedProcess:
    flags = {**FLAGS, **changes}
    command = ["bash", "launch/dataflow.sh", "--dry_run", *more]
    command += [f"--{k}={v}" for k, v in flags.items() if v is not None]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_dry_run_prints_the_command_and_nothing_else():
    done = dataflow("--text_field=body", "--max_num_workers=7")
    assert done.returncode == 0 and not done.stderr
    extras, bash, script, *arguments = shlex.split(done.stdout)
    assert (extras, bash) == ("BEAM_EXTRAS=beam,dataflow", "bash")
    given = dict(a.removeprefix("--").split("=", 1) for a in arguments)
    assert given.pop("job_name").startswith("llmjax-prepare-2")
    for name in ("setup_file", "requirements_file"):
        assert (ROOT / given.pop(name)).is_file()
    assert (ROOT / script).is_file()
    assert given == {
        "input": FLAGS["input"],
        "text_field": "body",
        "directory": "gs://my-bucket/datasets",
        "runner": "DataflowRunner",
        "project": "my-project",
        "region": "europe-west4",
        "temp_location": "gs://my-bucket/beam/temp",
        "staging_location": "gs://my-bucket/beam/staging",
        "max_num_workers": "7",
    }


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("project", None, "--project=... is missing"),
        ("project", "My Project", "is no project id"),
        ("region", "europe-west4-a", "a zone has one part more"),
        ("bucket", "my-bucket", "must be gs://NAME"),
        ("input", "gs://a/*.txt,/home/me/*.txt", "don't see /home/me/*.txt"),
        ("max_num_workers", "many", "is no number"),
    ],
)
def test_dataflow_refuses_before_anything_starts(flag, value, told):
    done = dataflow(**{flag: value})
    assert done.returncode == 2 and not done.stdout
    assert told in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_stray_word_is_no_flag():
    done = dataflow("dry_run")
    assert done.returncode == 2 and "dry_run is no flag" in done.stderr


@pytest.mark.parametrize("minor", ["3.11", "3.12"])
def test_beams_environment_is_pinned_whole(minor):
    text = (ROOT / f"constraints/beam-{minor}.txt").read_text("utf-8")
    pinned = {line.partition("==")[0] for line in text.splitlines() if "==" in line}
    setup = (ROOT / "setup.py").read_text("utf-8")
    required = setup[setup.index("install_requires") : setup.index("extras_require")]
    names = re.findall(r'^ +"([\w.-]+)', required, re.MULTILINE)
    assert len(names) > 20 and "jax" in names

    def plain(found):
        return {re.sub(r"[-_.]+", "-", name).lower() for name in found}

    assert plain([*names, "apache-beam"]) <= plain(pinned)
    assert "tensorflow" not in pinned


def test_only_the_job_imports_beam():
    users = {
        str(path.relative_to(ROOT))
        for room in ("llmjax", "experiments", "configs")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"apache_beam|import beam_text", path.read_text("utf-8"))
    }
    assert users == {"llmjax/data/prepare/beam_text.py", "experiments/prepare_beam.py"}
