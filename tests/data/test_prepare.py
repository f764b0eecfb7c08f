"""Preparing is done once, goes on when interrupted, and never takes half for whole."""

import dataclasses
import importlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from etils import epath

from llmjax.config import (
    BPE,
    Bytes,
    DataConfig,
    MixturePart,
    PrepareConfig,
    RecordField,
    TokenizerFile,
    WordPiece,
)
from llmjax.data.files import slices
from llmjax.data.prepare import encoding, local_files, prepare, selecting, workers
from llmjax.data.store import documents, manifest, tokens
from llmjax.data.store.documents import read_slice
from llmjax.data.tokenizers import tokenizer

ROOT = pathlib.Path(__file__).parents[2]
SPLITS = ("train", "validation", "test")


def document(rng: random.Random) -> str:
    return " ".join(f"{rng.choice('bdfk')}{rng.randrange(300)}é" for _ in range(40))


@pytest.fixture
def data(tmp_path: pathlib.Path) -> DataConfig:
    folder = tmp_path / "books"
    folder.mkdir()
    rng = random.Random(0)
    for i in range(60):
        (folder / f"{i:03d}.txt").write_text(document(rng), encoding="utf-8")
    return DataConfig(
        source=str(folder), directory=str(tmp_path / "cache"), tokenizer=BPE(300)
    )


@pytest.fixture
def lines(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """A file of many parts, with labels."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 6000)
    rng = random.Random(1)
    rows = [{"body": document(rng), "kind": f"k{k % 3}"} for k in range(150)]
    rows[7]["body"] += "\n \n \n  " + chr(0) + "\uff21\uff22 schÃ¶n"
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(
        source=str(path),
        directory=str(tmp_path / "cache"),
        tokenizer=BPE(300),
        prepare=PrepareConfig(text="body", label="kind", workers=1, shards=2),
    )


def content(directory: str) -> dict[str, bytes | str]:
    """Every file of a cache that is a function of the corpus."""
    found: dict[str, bytes | str] = {}
    for path in sorted(pathlib.Path(directory).rglob("*")):
        stamps = path.name == "verified.json" or path.parent.name == "hashes"
        if path.is_file() and not stamps:
            name, text = str(path.relative_to(directory)), path.read_bytes()
            if path.name == "manifest.json":
                text = repr({**manifest.read_json(epath.Path(path)), "seconds": 0})
            found[name] = text
    return found


def test_a_folder_of_text_files_becomes_a_corpus(data: DataConfig) -> None:
    corpus = prepare.prepare(data)
    assert corpus.class_names == ()
    assert corpus.tokenizer.vocab_size == 300
    total = 0
    for split in SPLITS:
        source = corpus.source(split)
        texts: Any = corpus.texts(split)
        decoded = [
            corpus.tokenizer.decode(source[i]["tokens"]) for i in range(len(source))
        ]
        assert decoded == list(texts) == list(texts)  # can be read twice
        assert len(decoded) == len(texts)
        assert source.num_bytes == sum(len(t.encode()) for t in texts)
        assert source.num_bytes == corpus.manifest["dataset"]["bytes"][split]
        total += len(source)
    assert total == 60
    with pytest.raises(ValueError, match=r"'tset'.*text/test"):
        corpus.source("tset")
    with pytest.raises(ValueError, match=r"'masked_text'.*text/train"):
        corpus.texts("train", "masked_text")


def test_labels_are_classes_by_name(
    lines: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = dataclasses.replace(lines, directory=lines.directory + "0")
    whole = prepare.prepare(elsewhere)
    monkeypatch.setattr(local_files, "_BLOCK_CHARACTERS", 300)
    monkeypatch.setattr(documents, "_BLOCKS", 2)
    corpus = prepare.prepare(lines)
    assert corpus.class_names == ("k0", "k1", "k2")
    text = pathlib.Path(lines.source).read_text()
    rows = [json.loads(row) for row in text.splitlines()]
    wanted = {row["body"]: int(row["kind"][1]) for row in rows}
    seen = 0
    for split in SPLITS:
        source = corpus.source(split)
        assert list(corpus.texts(split)) == list(whole.texts(split))
        for i, text in enumerate(corpus.texts(split)):
            assert source[i]["label"] == wanted[text]  # one has a wrong encoding
            assert corpus.tokenizer.decode(source[i]["tokens"]) == text
            seen += 1
    assert seen == 150
    texts = [t for split in SPLITS for t in corpus.texts(split)]
    assert any(t.endswith("\n \n \n  \0\uff21\uff22 schÃ¶n") for t in texts)
    counts = corpus.manifest["dataset"]["cleaning"]
    assert counts["collected"] == counts["kept"] == 150


def test_the_values_of_a_label_are_the_classes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.jsonl"
    kinds = [-1, 0, 1, 2.0, 10, None] * 4
    rows = [{"text": f"text {k}", "label": kind} for k, kind in enumerate(kinds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(
        source=str(path),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        prepare=PrepareConfig(
            label="label",
            min_characters=0,
            near_duplicates=False,
            validation=0.0,
            test=0.0,
        ),
    )
    corpus = prepare.prepare(data)
    assert corpus.class_names == ("-1", "0", "1", "2", "10")
    assert corpus.source("train").labels.tolist() == [0, 1, 2, 3, 4, -1] * 4


def test_another_label_is_another_content(lines: DataConfig) -> None:
    def content_sha256() -> str:
        corpus = prepare.prepare(dataclasses.replace(lines, tokenizer=Bytes()))
        return corpus.manifest["dataset"]["content_sha256"]

    first, path = content_sha256(), pathlib.Path(lines.source)
    path.write_text(path.read_text().replace('"k1"', '"k3"').replace('"k2"', '"k1"'))
    path.write_text(path.read_text().replace('"k3"', '"k2"'))
    assert content_sha256() != first


def test_a_second_call_makes_nothing_anew(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare.prepare(data)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("made anew")

    for module, name in (
        (tokenizer, "make"),
        (tokens, "write"),
        (local_files, "_clean"),
        (selecting, "choose"),
        (encoding, "_encode"),
        (manifest, "sha256"),
    ):
        monkeypatch.setattr(module, name, never)
    for again in (prepare.prepare(data), prepare.open_corpus(data)):
        assert again.manifest == first.manifest
        assert again.tokenizer.fingerprint == first.tokenizer.fingerprint


# --- interrupted, parallel -----------------------------------------------------------

KILLED = """
import os, signal, sys
from llmjax.config import *
from llmjax.data.prepare import encoding, local_files, prepare
from llmjax.data.files import slices
from llmjax.data.store import tokens
data = eval(sys.stdin.read())
slices.SLICE_BYTES = 6000
place, name, call = sys.argv[1:]
module, calls = globals()[place], []
real = getattr(module, name)
def killed(*args):
    calls.append(args)
    if len(calls) == int(call):
        print(*(getattr(job, "index", "") for job, *_ in calls), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
setattr(module, name, killed)
prepare.prepare(data)
"""


def test_a_killed_job_goes_on_to_the_same_bits(
    lines: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = (
        ("local_files", "_clean", 3, "0 1 2"),
        ("local_files", "_clean", 4, "2 3 4 5"),
        ("encoding", "_encode", 4, ""),
        ("tokens", "_save", 7, ""),
    )
    for place, name, call, indices in kills:
        process = subprocess.run(
            [sys.executable, "-c", KILLED, place, name, str(call)],
            input=repr(lines),
            text=True,
            cwd=ROOT,
            capture_output=True,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert process.stdout.strip() == indices
        with pytest.raises(FileNotFoundError, match="is not prepared.*prepare_data"):
            prepare.open_corpus(lines)
    calls: Counter[str] = Counter()
    for module, name in ((local_files, "_clean"), (encoding, "_encode")):
        real = getattr(module, name)

        def counted(job: Any, real: Any = real, name: str = name) -> None:
            calls[name] += 1
            real(job)

        monkeypatch.setattr(module, name, counted)
    prepare.prepare(lines)
    assert calls == {}  # what was done before is not done again
    whole = dataclasses.replace(lines, directory=lines.directory + "2")
    prepare.prepare(whole)
    assert calls["_clean"] == calls["_encode"] >= 8
    assert content(lines.directory) == content(whole.directory)
    cache = pathlib.Path(lines.directory)
    assert [*cache.rglob(".*"), *cache.rglob("*.npz")] == []  # nothing is left over


def test_the_number_of_workers_changes_nothing(
    lines: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.prepare(lines)
    monkeypatch.setattr(workers, "_WORTHWHILE", 0)
    several = dataclasses.replace(
        lines,
        directory=lines.directory + "3",
        prepare=dataclasses.replace(lines.prepare, workers=2),
    )
    prepare.prepare(several)
    assert content(lines.directory) == content(several.directory)


def test_what_goes_wrong_in_a_worker_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_WORTHWHILE", 0)
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
    module: Any = importlib.import_module("steps")
    good = [module.Step("work", str(tmp_path / str(k))) for k in range(4)]
    workers.run(module.act, good, "good", 2)
    pids = {pathlib.Path(step.output).read_text() for step in good}
    assert str(os.getpid()) not in pids and len(pids) <= 2
    for what, error, message in (
        ("raise", ValueError, "the reason"),
        ("die", RuntimeError, r"code -9.*run it again.*prepare\.workers"),
    ):
        bad = [*good, module.Step(what, str(tmp_path / "x"))] * 2
        with pytest.raises(error, match=message):
            workers.run(module.act, bad, "bad", 2)


# --- changed, damaged ----------------------------------------------------------------


def test_what_was_changed_is_not_opened(data: DataConfig) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not prepared.*prepare_data"):
        prepare.open_corpus(data)
    corpus = prepare.prepare(data)
    path = corpus.folder / "manifest.json"
    made = manifest.read_json(path)

    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged \(its contents"):
        prepare.open_corpus(data)
    manifest.write_json(path, {**made, "format": 0})
    with pytest.raises(ValueError, match=r"format 0.*prepare_data"):
        prepare.open_corpus(data)
    prepare.prepare(data)  # mends it
    path.write_text('{"format":')
    with pytest.raises(ValueError, match=r"manifest\.json is damaged.*prepare_data"):
        prepare.open_corpus(data)
    path.unlink()
    prepare.prepare(data)

    account = corpus.folder / "text" / "test" / "account.json"
    kept = account.read_text()
    account.write_text(kept.replace('"key": "', '"key": "0'))
    with pytest.raises(ValueError, match=r"text/test.*prepare_data"):
        prepare.open_corpus(data)
    assert prepare.prepare(data).manifest["token_files"] == made["token_files"]
    assert account.read_text() == kept

    account.write_text(kept.replace('"documents": ', '"documents": 1'))
    assert prepare.prepare(data).manifest["token_files"] == made["token_files"]
    assert account.read_text() == kept

    other = tokenizer.train(["other words"], 300)
    other.save(corpus.folder / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the tokenizer"):
        prepare.open_corpus(data)
    prepared = prepare.prepare(data)
    assert prepared.tokenizer.fingerprint == corpus.tokenizer.fingerprint

    metadata = corpus.dataset / "metadata.json"
    account = manifest.read_json(metadata)
    manifest.write_json(metadata, {**account, "content_sha256": "0"})
    with pytest.raises(ValueError, match=r"the documents in .*prepare_data"):
        prepare.open_corpus(data)
    metadata.write_text('{"content')
    with pytest.raises(ValueError, match=r"metadata\.json is damaged .*prepare_data"):
        prepare.open_corpus(data)


@pytest.mark.parametrize("name", ["000000.arrow", "000000.split.npy"])
def test_damaged_documents_become_no_tokens(name: str, data: DataConfig) -> None:
    """They are read again for another tokenizer, or as text."""
    corpus = prepare.prepare(data)
    path = corpus.dataset / name
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    path.write_bytes(bytes(broken))
    message = rf"{name} is corrupted: its sha256 .*prepare_data"
    with pytest.raises(ValueError, match=message):
        prepare.prepare(dataclasses.replace(data, tokenizer=Bytes()))
    with pytest.raises(ValueError, match=message):
        corpus.texts("train")
    corpus.dataset.rmtree()  # the remedy that was named
    prepare.prepare(dataclasses.replace(data, tokenizer=Bytes()))


def test_what_decayed_under_the_same_time_stamps_is_found_once_a_boot(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(manifest, "_stamp", lambda path: [0, 0, 0, 0])
    corpus = prepare.prepare(data)
    shard = corpus.folder / "text" / "train" / "tokens-00000-of-00001.npy"
    broken = bytearray(shard.read_bytes())
    broken[-9] ^= 1
    shard.write_bytes(bytes(broken))
    prepare.open_corpus(data)  # a disk's decay changes no time stamp
    (tmp_path / "boot_id").write_text("the next")
    monkeypatch.setattr(manifest, "BOOT", tmp_path / "boot_id")
    with pytest.raises(ValueError, match=r"tokens-00000-of-00001\.npy is corrupted"):
        prepare.open_corpus(data)
    (corpus.folder / "verified.json").write_text("{")  # only a cache
    with pytest.raises(ValueError, match=r"tokens-00000-of-00001\.npy is corrupted"):
        prepare.open_corpus(data)


def test_a_damaged_shard_is_found_before_it_is_read(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = prepare.prepare(data)
    shard = corpus.folder / "text" / "train" / "tokens-00000-of-00001.npy"
    whole = shard.read_bytes()

    broken = bytearray(whole)
    broken[-9] ^= 1
    shard.write_bytes(bytes(broken))
    message = r"train/tokens-00000-of-00001\.npy is corrupted: .*delete .*prepare_data"
    for _ in range(2):  # the second time from what the first found out
        with pytest.raises(ValueError, match=message):
            prepare.open_corpus(data)
    shard.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"tokens-00000.*is truncated: .* instead of"):
        prepare.open_corpus(data)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokens-00000.* is missing"):
        prepare.open_corpus(data)
    shard.parent.rmtree()  # the remedy that was named
    prepare.prepare(data)
    assert shard.read_bytes() == whole

    hashed: list[str] = []
    real = manifest.sha256

    def counted(path: str) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(manifest, "sha256", counted)
    prepare.open_corpus(data)
    assert hashed == []
    os.utime(shard)
    prepare.open_corpus(data)
    assert hashed == [str(shard)]


def test_another_text_or_rule_is_another_corpus(data: DataConfig) -> None:
    def name(**rules: Any) -> str:
        changed = dataclasses.replace(data.prepare, **rules)
        return prepare.corpus_name(dataclasses.replace(data, prepare=changed))

    names = {name(), name(min_characters=9), name(test=0.1), name(text="body")}
    assert len(names) == 4
    assert name() == name(workers=7, shards=3) == name()
    path = pathlib.Path(data.source) / "000.txt"
    path.write_text("Changed.")
    changed = name()
    path.rename(path.parent / "xxx.txt")
    assert len({*names, changed, name()}) == 6


def test_names_of_format_1_and_2_stay(tmp_path: pathlib.Path) -> None:
    # Printed by the version that wrote the first corpora: a cache of then is read on.
    (tmp_path / "a.txt").write_text("A text.\n")
    data = DataConfig(source=str(tmp_path), directory=str(tmp_path / "cache"))
    records = dataclasses.replace(data, prepare=PrepareConfig(fields=(RecordField(),)))
    assert prepare.corpus_name(records).endswith("_730f5c787534")
    # The corpora of documents of then were cleaned in another way.
    assert not prepare.corpus_name(data).endswith("_a3b91ff54036")
    key = encoding.key("content", "tokenizer")
    assert key[:32] == "813bf6232cf2c93586e6b52b39c9b5b8"


@pytest.mark.parametrize("name", ["shards", "workers"])
def test_numbers_of_files_and_processes_have_a_bound(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is 1000.*must be in \[1, \d"):
        dataclasses.replace(PrepareConfig(), **{name: 10**20})


# --- tokenizers and mixtures ---------------------------------------------------------


def test_each_tokenizer_has_its_folder(
    data: DataConfig, tmp_path: pathlib.Path
) -> None:
    first = prepare.prepare(data)
    kinds = (
        Bytes(),
        WordPiece(300),
        WordPiece(300, lowercase=False),
        BPE(301),
        TokenizerFile(str(first.folder / "tokenizer.json")),
    )
    folders = {first.folder}
    for kind in kinds:
        made = prepare.prepare(dataclasses.replace(data, tokenizer=kind))
        folders.add(made.folder)
        source = made.source("train")
        assert source.lengths.sum() > 0
    # The last is the first's tokenizer, from its file: nothing is encoded again.
    assert len(folders) == 5 and made.folder == first.folder
    assert prepare.prepare(data).tokenizer.fingerprint == made.tokenizer.fingerprint


def test_a_mixture_has_one_tokenizer(data: DataConfig, lines: DataConfig) -> None:
    mixture = (
        MixturePart(source=data.source, weight=1.0),
        MixturePart(source=str(pathlib.Path(lines.source).parent / "*.txt")),
    )
    rng = random.Random(3)
    for k in range(60):
        text = document(rng).replace("é", "ö")
        (pathlib.Path(lines.source).parent / f"o{k}.txt").write_text(text)
    mixed = dataclasses.replace(data, mixture=mixture)
    first = prepare.prepare(mixed)
    opened = prepare.open_corpora(mixed)
    assert [part for part, _ in opened] == list(mixture)
    a, b = (corpus for _, corpus in opened)
    assert a.folder == first.folder == prepare.prepare(data).folder
    assert a.tokenizer.fingerprint == b.tokenizer.fingerprint
    assert prepare.open_corpus(mixed).folder == first.folder
    source = b.source("test")
    decoded = [b.tokenizer.decode(source[i]["tokens"]) for i in range(len(source))]
    assert decoded == list(b.texts("test")) and "ö" in decoded[0]
    # The same files alone have a tokenizer of their own, in another folder.
    alone = prepare.prepare(dataclasses.replace(data, source=mixture[1].source))
    assert alone.tokenizer.fingerprint != b.tokenizer.fingerprint
    assert alone.dataset == b.dataset and alone.folder != b.folder
    ((part, corpus),) = prepare.open_corpora(data)
    assert part.source == data.source and corpus.folder == a.folder


# --- duplicates, splits --------------------------------------------------------------


def test_copies_go_and_relatives_are_not_held_out(tmp_path: pathlib.Path) -> None:
    rng = random.Random(5)
    bases = [document(rng).split() for _ in range(150)]
    rows = [" ".join(b) for b in bases]
    rows += [" ".join(b[:-1]) for b in bases[:20]]  # near copies, shorter
    rows += rows[20:40]  # exact ones
    rows += [" ".join(b[:32] + document(rng).split()[:8]) for b in bases[40:90]]
    rows += ["too short"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    data = DataConfig(
        source=str(path),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        prepare=PrepareConfig(validation=0.2, test=0.3),
    )
    corpus = prepare.prepare(data)
    counts = corpus.manifest["dataset"]["cleaning"]
    assert counts == {
        "collected": 241,
        "dropped_short": 1,
        "dropped_exact_duplicate": 20,
        "dropped_near_duplicate": 20,
        "kept": 200,
    }
    texts = {split: set(corpus.texts(split)) for split in SPLITS}
    assert {*rows[:150]} <= set().union(*texts.values())
    assert {*rows[40:90], *rows[190:240]} <= texts["train"]
    assert 5 < len(texts["validation"]) < 40 and 12 < len(texts["test"]) < 50
    every = dataclasses.replace(
        data, prepare=PrepareConfig(near_duplicates=False, validation=0.2, test=0.3)
    )
    kept = prepare.prepare(every).manifest["dataset"]["cleaning"]
    assert kept["kept"] == 220 and "dropped_near_duplicate" not in kept


def test_existing_splits_stay_and_held_out_copies_win(tmp_path: pathlib.Path) -> None:
    import pyarrow as pa

    rng = random.Random(6)
    texts = [document(rng) for _ in range(20)]
    given = {"train": [*texts[:15], texts[17]], "dev": texts[15:]}
    given["train"][3] = texts[16] + " and a little more"
    folder = tmp_path / "d"
    for split, rows in given.items():
        (folder / split).mkdir(parents=True)
        table = pa.Table.from_pylist([{"text": t, "label": 1} for t in rows])
        with pa.ipc.new_stream(str(folder / split / "a.arrow"), table.schema) as out:
            out.write_table(table)
        state = {"_data_files": [{"filename": "a.arrow"}]}
        names = {"names": ["good", "bad"], "_type": "ClassLabel"}
        (folder / split / "state.json").write_text(json.dumps(state))
        info = {"features": {"text": {}, "label": names}}
        (folder / split / "dataset_info.json").write_text(json.dumps(info))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [*given]}))
    data = DataConfig(
        source=str(folder),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        eval_split="dev",
        prepare=PrepareConfig(
            label="label", exact_duplicates=True, near_duplicates=True
        ),
    )
    corpus = prepare.prepare(data)
    assert list(corpus.texts("dev")) == texts[15:]
    assert list(corpus.texts("train")) == [*texts[:3], *texts[4:15]]
    assert corpus.class_names == ("good", "bad")
    assert set(corpus.source("dev").labels.tolist()) == {1}
    table = pa.Table.from_pylist([{"text": "a" * 90, "label": 2}])
    with pa.ipc.new_stream(str(folder / "dev" / "a.arrow"), table.schema) as out:
        out.write_table(table)
    with pytest.raises(ValueError, match=r"label '2' .*good, bad\); accepted: .* 0 to"):
        prepare.prepare(data)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pyhton_docs", r"pyhton_docs.*accepted: .*'python_docs'"),
        ("", r"''.*accepted"),
        ("tfds:no_such_one", r"'tfds:no_such_one': TFDS knows no such .*accepted"),
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
    with pytest.raises(ValueError, match=r"few' holds no file.*\.txt"):
        prepare.prepare(data)
    (folder / "a.txt").write_text("a word")
    with pytest.raises(
        ValueError, match=r"few': no document is left .*dropped_short 1"
    ):
        prepare.prepare(data)
    (folder / "a.txt").write_text(("a word " * 20).strip())
    message = r"few' has too few documents: .*'validation'.*prepare\.validation=0"
    with pytest.raises(ValueError, match=message):
        prepare.prepare(data)
    alone = PrepareConfig(validation=0.0, test=0.0)
    corpus = prepare.prepare(
        dataclasses.replace(data, prepare=alone, tokenizer=Bytes())
    )
    assert len(corpus.source("train")) == 1
    wrong = dataclasses.replace(data, prepare=alone, train_split="trian")
    with pytest.raises(ValueError, match=r"train_split='trian'.*accepted: train"):
        prepare.prepare(wrong)


def test_a_damaged_document_file_names_itself(tmp_path: pathlib.Path) -> None:
    from etils import epath

    path = epath.Path(tmp_path / "a.arrow")
    for what in (None, b"no arrow"):
        if what:
            path.write_bytes(what)
        with pytest.raises(ValueError, match=r"a\.arrow is damaged.*prepare_data"):
            next(read_slice(path, 0, 1))
