"""`experiments.plan`: a mistake is one line and code 2; two results are compared."""

import json

import pytest

from tests.experiments.forked import Mains

CONFIG = "--config=configs/pretrain/python_docs.py"


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--config=configs/", "--compare="]),
        ([CONFIG, "--topology=v5p"], ["'v5p'", "v5p:4x4x4"]),
        ([CONFIG, "--topology=gpu:2x2"], ["'gpu:2x2'", "v5e"]),
        ([CONFIG, "--topology=h100"], ["'h100'", "h100:8x16", "rtx4090"]),
        ([CONFIG, "--topology=h100:8", "--num_slices=2"], ["num_slices is 2", "h100"]),
        ([CONFIG, "--num_slices=0"], ["num_slices is 0"]),
        ([CONFIG, "--config.layout.plan_topology=x"], ["'x'"]),
        ([CONFIG, "--compiles=0"], ["--compiles=0"]),
        ([CONFIG, "--fixed=remat,rmat"], ["has no rmat", "microbatches"]),
        (["--compare=a.json"], ["--compare=a.json", "two paths"]),
        (["--compare=a.json,b.json"], ["a.json is not there"]),
    ],
    ids=lambda x: x[-1].split("=")[0] if x and isinstance(x[0], str) else "none",
)
def test_a_mistake_is_one_line(flags, words, mains):
    done = mains.run("plan", *flags)
    assert done.code == 2, done.err
    (line,) = (x for x in done.err.splitlines() if x.strip())
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


def test_two_results_are_compared(mains, tmp_path):
    plan = {
        "topology": "v5e:2x2",
        "num_slices": 1,
        "mesh": {"data": 4},
        "fits": True,
        "seconds": {"compile": 1.0},
    }
    for name, peak in (("a", 2**30), ("b", 2**31)):
        text = json.dumps({**plan, "memory": {"peak": peak}})
        (tmp_path / f"{name}.json").write_text(text)
    done = mains.run("plan", f"--compare={tmp_path}/a.json,{tmp_path}/b.json")
    assert done.code == 0, done.err
    row = next(line for line in done.out.splitlines() if line.startswith("| peak"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "peak",
        "1.00 GiB",
        "2.00 GiB",
        "2.000",
    ]
