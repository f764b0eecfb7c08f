"""Preparing is done once, goes on when interrupted, and never takes half for whole."""

import dataclasses
import json
import pathlib
import random
from typing import Any

import numpy as np
import pytest

from llmjax.config import DataConfig
from llmjax.data import prepare, tokenizer, tokens


@pytest.fixture
def data(tmp_path: pathlib.Path) -> DataConfig:
    folder = tmp_path / "books"
    folder.mkdir()
    rng = random.Random(0)
    for i in range(60):
        words = [f"{rng.choice('bdfk')}{rng.randrange(300)}é" for _ in range(40)]
        (folder / f"{i:03d}.txt").write_text(" ".join(words), encoding="utf-8")
    return DataConfig(
        source=str(folder),
        directory=str(tmp_path / "cache"),
        tokenizer_vocab_size=300,
    )


def test_a_folder_of_text_files_becomes_a_corpus(data: DataConfig) -> None:
    corpus = prepare.prepare(data)
    assert corpus.class_names == ()
    assert corpus.tokenizer.vocab_size == 300
    total = 0
    for split in ("train", "validation", "test"):
        source, texts = corpus.source(split), corpus.texts(split)
        decoded = [
            corpus.tokenizer.decode(source[i]["tokens"]) for i in range(len(source))
        ]
        assert decoded == list(texts) == list(texts)  # can be read twice
        assert source.num_bytes == sum(len(t.encode()) for t in texts)
        assert source.num_bytes == corpus.manifest["dataset"]["bytes"][split]
        total += len(source)
    assert total == 60
    with pytest.raises(ValueError, match=r"'tset'.*text/test"):
        corpus.source("tset")
    with pytest.raises(ValueError, match=r"'masked_text'.*text/train"):
        corpus.texts("train", "masked_text")


def test_a_second_call_makes_nothing_anew(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare.prepare(data)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("made anew")

    monkeypatch.setattr(tokenizer, "train", never)
    monkeypatch.setattr(tokens, "write", never)
    for again in (prepare.prepare(data), prepare.open_corpus(data)):
        assert again.manifest == first.manifest
        assert again.tokenizer.fingerprint == first.tokenizer.fingerprint


@pytest.mark.parametrize("stage", ["tokenizer.train", "tokens.write", "np.save"])
def test_an_interrupted_job_goes_on(
    data: DataConfig, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = stage.split(".")
    module: Any = {"tokenizer": tokenizer, "tokens": tokens, "np": np}[place]
    real, calls = getattr(module, name), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == (1 if name == "train" else 2):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(data)
    with pytest.raises(FileNotFoundError, match="is not prepared.*prepare_data"):
        prepare.open_corpus(data)
    interrupted_corpus = prepare.prepare(data)
    elsewhere = dataclasses.replace(data, directory=data.directory + "2")
    whole = prepare.prepare(elsewhere)
    for part in whole.manifest["token_files"]:
        field, split = part.split("/")
        a, b = interrupted_corpus.source(split, field), whole.source(split, field)
        assert a.lengths.tolist() == b.lengths.tolist()
        for i in range(len(a)):
            np.testing.assert_array_equal(a[i]["tokens"], b[i]["tokens"])


def test_what_was_changed_is_not_opened(data: DataConfig) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not prepared.*prepare_data"):
        prepare.open_corpus(data)
    corpus = prepare.prepare(data)
    path = corpus.folder / "manifest.json"
    manifest = json.loads(path.read_text())

    path.write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(ValueError, match=r"format 0.*prepare_data"):
        prepare.open_corpus(data)
    prepare.prepare(data)  # mends it

    account = corpus.folder / "text" / "test" / "account.json"
    kept = account.read_text()
    account.write_text(kept.replace('"key": "', '"key": "0'))
    with pytest.raises(ValueError, match=r"text/test.*prepare_data"):
        prepare.open_corpus(data)
    assert prepare.prepare(data).manifest["token_files"] == manifest["token_files"]
    assert account.read_text() == kept

    other = tokenizer.train(["other words"], 300)
    other.save(corpus.folder / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the tokenizer"):
        prepare.open_corpus(data)
    prepared = prepare.prepare(data)
    assert prepared.tokenizer.fingerprint == corpus.tokenizer.fingerprint

    metadata = corpus.dataset / "metadata.json"
    metadata.write_text(
        metadata.read_text().replace('"content_sha256": "', '"content_sha256": "0')
    )
    with pytest.raises(ValueError, match=r"the documents in .*prepare_data"):
        prepare.open_corpus(data)


def test_another_text_is_another_corpus(data: DataConfig) -> None:
    name = prepare.corpus_name(data)
    (pathlib.Path(data.source) / "000.txt").write_text("Changed.")
    assert prepare.corpus_name(data) != name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pyhton_docs", r"pyhton_docs.*accepted: 'python_docs'"),
        ("", r"''.*accepted"),
        ("python_docs/tiny", r"python_docs/tiny.*'python_docs/small'"),
    ],
)
def test_unknown_sources_are_named(
    source: str, message: str, tmp_path: pathlib.Path
) -> None:
    data = DataConfig(source=source, directory=str(tmp_path))
    for function in (prepare.prepare, prepare.open_corpus):
        with pytest.raises(ValueError, match=message):
            function(data)


def test_folders_with_too_little_are_named(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    data = DataConfig(source=str(folder), directory=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"few.*no \.txt file"):
        prepare.prepare(data)
    (folder / "a.txt").write_text("a word " * 20)
    with pytest.raises(ValueError, match=r"few.*too few"):
        prepare.prepare(data)
