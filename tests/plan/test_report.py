"""The report has the verdict, the numbers and the advice; a picture is drawn."""

import json
import sys

import pytest

from llmjax.plan import compare, picture, report, tables

GIB = 2**30


def result(**changes):
    """A plan's result, in the form of `describe`."""
    plan = {
        "config": "configs/a.py",
        "topology": "v5e:4x4",
        "num_slices": 1,
        "chips": 16,
        "mesh": {"data": 1, "fsdp": 16},
        "layout": {"remat": {"kind": "full"}, "fsdp": -1},
        "rows": 64,
        "tokens_per_row": 2048,
        "parameters": 6_738_415_616,
        "fits": True,
        "error": "",
        "memory": {
            "parameters": 2 * GIB,
            "optimizer": 4 * GIB,
            "batch": 4096,
            "gradients": 2 * GIB,
            "activations": GIB,
            "temporaries": GIB - 4096,
            "peak": 10 * GIB,
            "capacity": 16 * GIB,
            "code": 1,
            "host": 0,
        },
        "largest": [
            {
                "name": "params/mlp/gate/kernel",
                "kind": "parameters",
                "bytes": GIB,
                "shape": "f32[4,8]",
                "source": "layers.py:63",
            }
        ],
        "replicated": [],
        "seconds": {"build": 1.0, "trace": 1.0, "lower": 1.0, "compile": 60.0},
        "time": {
            "step_seconds": 2.0,
            "compiler_seconds": 1.5,
            "pallas_seconds": 0.3,
            "exposed_seconds": 0.2,
            "estimated_cycles": 4_000_000_000,
            "mfu": 0.5,
            "mfu_causal": 0.45,
            "tokens_per_second_per_chip": 4096.0,
            "dollars_per_billion_tokens": 81.0,
            "roofline": {"compute": 1.0, "hbm": 0.4, "ici fsdp": 0.7, "dcn": 0.0},
            "binds": "compute",
            "collectives": [
                {
                    "kind": "all-gather",
                    "axis": "fsdp",
                    "network": "ici",
                    "calls": 64,
                    "result_bytes": 26 * GIB,
                    "link_bytes": 24 * GIB,
                }
            ],
        },
    }
    return {**plan, **changes}


def test_the_text_has_the_verdict_and_the_numbers():
    text = report.text(result())
    head = text.splitlines()[0]
    assert head == "configs/a.py on v5e:4x4: fits, 10.00 GiB of 16.00 GiB per chip"
    for words in (
        "6.74 B parameters, 16 chips, mesh fsdp=16, 64 rows of 2048 tokens",
        "| params/mlp/gate/kernel | parameters | f32[4,8]",
        "| all-gather | fsdp | ici     |    64 | 26.00 GiB | 24.00 GiB |",
    ):
        assert words in text
    rows = [line.split("|")[1:3] for line in text.splitlines() if line[:1] == "|"]
    values = {a.strip(): b.strip() for a, b in rows}
    assert values["optimizer"] == "4.00 GiB"
    assert values["step"] == "2.000 s"
    assert values["exposed communication"] == "200.0 ms"
    assert values["dollars per 1e9 tokens"] == "81"
    assert values["bottleneck"] == "compute"


def test_a_plan_for_gpus_counts_gpus():
    plan = result(topology="h100:8x2", platform="cuda")
    plan["time"]["estimated_cycles"] = 0
    text = report.text(plan)
    assert "fits, 10.00 GiB of 16.00 GiB per GPU" in text
    assert "16 GPUs, mesh fsdp=16" in text
    assert "matmuls and fusions" in text
    assert "chip" not in text
    assert "cycles" not in text


def test_a_plan_that_does_not_fit_names_the_buffer_and_the_changes():
    memory = {**result()["memory"], "peak": 20 * GIB}
    remedies = [
        {
            "why": "keep only the input of a layer",
            "flags": "--config.layout.remat.kind=full",
            "slower": 1.25,
            "fits": True,
            "bytes": 12 * GIB,
            "error": "",
        }
    ]
    failed = result(fits=False, memory=memory, remedies=remedies)
    del failed["time"]
    text = report.text(failed)
    assert "DOES NOT FIT, 20.00 GiB of 16.00 GiB" in text
    assert "lacks 4.00 GiB a chip" in text
    assert "largest buffer is params/mlp/gate/kernel (f32[4,8], 1.00 GiB)" in text
    assert "| fits     | 12.00 GiB |          1.25x |" in text
    assert "--config.layout.remat.kind=full" in text


def test_a_search_says_which_layout_to_take():
    rows = [
        {
            "flags": flags,
            "lines": "config.layout.tensor = 4",
            "why": "four chips a layer",
            "step_seconds": seconds,
            "mfu": 0.6 if seconds else None,
            "cycles": 1,
            "bytes": GIB,
            "estimated_seconds": 1.0,
            "estimated_bytes": GIB,
            "error": "",
        }
        for flags, seconds in (("--config.layout.tensor=4", 1.5), ("--b", None))
    ]
    text = report.text(result(search=rows))
    take, code = text.split("Take the first: ")[1].split("In a config file:")
    assert take.strip() == "--config.layout.tensor=4"
    assert "config.layout.tensor = 4\n" in code
    assert "does not fit" in text and "four chips a layer" in text
    as_it_is = [{**rows[0], "lines": ""}]
    assert "None of these is faster" in report.text(result(search=as_it_is))


def test_tables_align():
    lines = tables.table(("a", "n"), [("long name", 5), ("b", 12345)]).splitlines()
    assert lines == [
        "| a         |     n |",
        "|-----------|------:|",
        "| long name |     5 |",
        "| b         | 12345 |",
    ]


@pytest.mark.parametrize("timed", [True, False])
def test_a_picture_is_drawn(timed, tmp_path):
    drawn = result()
    if not timed:
        del drawn["time"]
    assert picture.draw(drawn, tmp_path / "plan.png") == ""
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    missing = picture.draw(result(), tmp_path / "plan.png")
    assert missing.startswith("no plan.png: ")
    assert "pip install -e '.[report]'" in missing
    assert not (tmp_path / "plan.png").exists()


def test_two_plans_side_by_side(tmp_path):
    for name, seconds in (("a", 2.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        plan = result(
            layout={
                "fsdp": len(name),
                "pipeline": {"stages": 2, "rounds": int(seconds)},
                "remat": {"kind": "none" if name == "b" else "full"},
            }
        )
        plan["time"]["step_seconds"] = seconds
        (tmp_path / name / "result.json").write_text(json.dumps(plan))
    a, b = (compare.read(tmp_path / name) for name in "ab")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in compare.compare(a, b).splitlines()
    ]
    assert ["step seconds", "2.000 s", "3.000 s", "1.500"] in rows
    assert ["layout.remat.kind", "full", "none", ""] in rows
    assert ["layout.pipeline.rounds", "2", "3", ""] in rows
    assert ["all-gather over ici", "24.00 GiB", "24.00 GiB", "1.000"] in rows


def test_comparing_other_files_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="not there; accepted: two result"):
        compare.read(tmp_path / "none")
    (tmp_path / "result.json").write_text('{"loss": 1}')
    with pytest.raises(ValueError, match=r"is not a result\.json of experiments\.plan"):
        compare.read(tmp_path)
