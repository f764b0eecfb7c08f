"""metrics.jsonl goes on after a checkpoint; no row that was written is lost."""

import hashlib
import json

import pytest
from etils import epath

from llmjax.train.metrics import writers


@pytest.fixture
def workdir(tmp_path):
    """Rows of the steps 1 to 6."""
    writer = writers.JsonLines(epath.Path(tmp_path), 0)
    for step in range(1, 7):
        writer.write(step, {"train/loss": 1 / step})
    writer.close()
    return epath.Path(tmp_path)


def text(workdir):
    return (workdir / writers.METRICS_FILE).read_text()


def lines(workdir):
    return text(workdir).splitlines(keepends=True)


def account(rows):
    """What a checkpoint has of the file when it had these rows."""
    data = "".join(rows).encode()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_later_rows_are_dropped_and_it_knows_its_own_account(workdir):
    before = lines(workdir)
    for there in (None, account(before[:4])):
        writer = writers.JsonLines(workdir, 4, there)
        assert lines(workdir) == before[:4]
        writer.write(5, {"train/loss": 0.2})
        assert writer.account() == account(lines(workdir))
        writer.close()
    assert [row["step"] for row in writers.read(workdir)] == [1, 2, 3, 4, 5]


def test_a_last_row_that_was_cut_off_is_no_row(workdir):
    before = text(workdir)
    (workdir / writers.METRICS_FILE).write_text(before + '{"step": 7, "tr')
    assert [row["step"] for row in writers.read(workdir)] == [1, 2, 3, 4, 5, 6]
    writers.JsonLines(workdir, 6).close()
    assert text(workdir) == before


@pytest.mark.parametrize("there", [False, True], ids=["without", "with account"])
@pytest.mark.parametrize("row", ['{"step": 2, "tr\n', "7\n", '{"step": "2"}\n', "\n"])
def test_a_damaged_row_is_named_and_no_other_is_lost(row, there, workdir):
    rows = lines(workdir)
    damaged = "".join([rows[0], row, *rows[2:]])
    (workdir / writers.METRICS_FILE).write_text(damaged)
    with pytest.raises(ValueError, match=r"metrics.jsonl is damaged in line 2 .*mend"):
        writers.JsonLines(workdir, 4, account(rows[:4]) if there else None)
    with pytest.raises(ValueError, match="in line 2 "):
        writers.read(workdir)
    assert text(workdir) == damaged


def test_a_digit_that_changed_is_noticed(workdir):
    rows = lines(workdir)
    damaged = "".join([rows[0], rows[1].replace("0.5", "0.7"), *rows[2:]])
    assert len(json.loads(damaged.splitlines()[1])) == 2  # still a row
    (workdir / writers.METRICS_FILE).write_text(damaged)
    with pytest.raises(ValueError, match=r"are not those that it had when step 4 was"):
        writers.JsonLines(workdir, 4, account(rows[:4]))
    assert text(workdir) == damaged
    # after the checkpoint rows are written anew
    writers.JsonLines(workdir, 1, account(rows[:1])).close()
    assert text(workdir) == rows[0]


def test_one_that_is_gone_begins_anew_and_this_is_said(workdir, capsys):
    there = account(lines(workdir)[:4])
    (workdir / writers.METRICS_FILE).unlink()
    writer = writers.JsonLines(workdir, 4, there)
    writer.write(5, {"train/loss": 0.2})
    writer.close()
    assert [row["step"] for row in writers.read(workdir)] == [5]
    assert (
        "metrics.jsonl is gone: it begins anew after step 4" in capsys.readouterr()[1]
    )
