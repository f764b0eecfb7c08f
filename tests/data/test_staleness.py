"""A source that was changed is read again, whatever its size and time stamps say."""

import json
import os
import pathlib
import shutil
from typing import Any

import pytest

from llmjax.config import Bytes, DataConfig, PrepareConfig, RecordField
from llmjax.data.files import readers
from llmjax.data.prepare import prepare

RULES = PrepareConfig(min_characters=0, validation=0.0, test=0.0, workers=1)
RECORDS = PrepareConfig(fields=(RecordField(),), validation=0.0, test=0.0)


def texts(data: DataConfig) -> list[str]:
    corpus = prepare.prepare(data)
    assert prepare.open_corpus(data).manifest == corpus.manifest
    if not data.prepare.fields:
        return list(corpus.texts("train"))
    records = corpus.records("train")
    return [records[i]["text"].text for i in range(len(records))]


@pytest.fixture(params=[RULES, RECORDS], ids=["documents", "records"])
def data(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> DataConfig:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "first"}))
    return DataConfig(
        str(path),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        prepare=request.param,
    )


def test_the_same_size_and_time_hide_nothing(data: DataConfig) -> None:
    path = pathlib.Path(data.source)
    assert texts(data) == ["first"]
    stamps = path.stat()
    times = stamps.st_atime_ns, stamps.st_mtime_ns
    # Written in place, and the times set back: `cp -p` over it.
    path.write_text(json.dumps({"text": "other"}))
    os.utime(path, ns=times)
    assert path.stat().st_mtime_ns == stamps.st_mtime_ns
    assert path.stat().st_size == stamps.st_size
    assert texts(data) == ["other"]
    # Another file in its place: `cp -p` and `mv`, or rsync.
    beside = path.with_name("beside")
    beside.write_text(json.dumps({"text": "third"}))
    os.utime(beside, ns=times)
    shutil.move(beside, path)
    assert texts(data) == ["third"]
    # Changed at once after it was read, within a tick of the system's clock.
    for k in range(5):
        path.write_text(json.dumps({"text": f"no. {k}"}))
        assert texts(data) == [f"no. {k}"]


def test_what_is_changed_while_it_is_read_is_not_kept(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pathlib.Path(data.source)
    first = path.read_text()
    real = readers.rows

    def rows(*args: Any) -> Any:
        path.write_text(json.dumps({"text": "other"}))
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(readers, "rows", rows)
        with pytest.raises(ValueError, match=r"jsonl' was changed while it was read"):
            prepare.prepare(data)
    assert texts(data) == ["other"]
    path.write_text(first)
    assert texts(data) == ["first"]
