"""Damages every file that a run and a corpus leave, and reads them again.

    python -m tests.proofs.storage [--quick] [--workdir=DIR]

A small run (with frozen weights, a best and a latest checkpoint), a corpus of documents
and one of records; in each of their files a bit is flipped, at ten places, or the file
is cut in half, emptied, deleted, replaced by a folder. Then the run is gone on with,
its weights are read, the corpora are opened and prepared for another tokenizer. Each
must give what it gave before, or name the damage: the file, or the folder that is to
be replaced. Prints a table and exits with 1 where something else was taken for true, or
an error named nothing. --quick, of a minute, flips one bit, takes one file of each kind
and reads in two ways; the whole takes about twenty.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from llmjax.config import BPE, Bytes, DataConfig, Label, PrepareConfig, RecordField
from llmjax.config import Words as WordsField
from llmjax.data.prepare import prepare
from llmjax.train import loop
from llmjax.train.checkpoints.reading import load_params
from llmjax.train.metrics import writers
from tests.train import toy

PLACES = 10
RIGHT, NAMED, UNNAMED, WRONG = "right", "named", "not named", "WRONG"
Read = Callable[[Path], Any]  # what is read below a folder, as something to compare


def damages(places: int) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """(name, what it does to a file)."""
    for k in range(places):
        yield "bit flipped", functools.partial(_flip, place=(k + 0.5) / places)
    yield "cut", functools.partial(_keep, share=0.5)
    yield "emptied", functools.partial(_keep, share=0)
    yield "deleted", Path.unlink
    yield "a folder", _replace_by_folder


def _flip(path: Path, place: float) -> None:
    """Flips a bit, and leaves the time stamps that a program can set."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    if data:
        data[int(place * len(data))] ^= 1 << int(place * 8)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _keep(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# --- what is read --------------------------------------------------------------------


def digest(tree: Any) -> str:
    """Of the bits of all leaves."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        total.update(f"{path} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()


@dataclasses.dataclass
class Subject:
    """Something on disk, whole, and the ways in which it is read."""

    name: str
    folder: Path
    reads: dict[str, Read]
    expected: dict[str, Any] = dataclasses.field(default_factory=dict)


def make_run(folder: Path) -> Subject:
    """A finished run, best at step 8, with frozen weights."""
    config = toy.change(
        toy.NOISY,
        optimizer={"freeze": ("*/layer_0/attention/*",)},
        train={"keep_best": 1, "best_metric": "loss", "best_mode": "max"},
    )
    program, train = toy.program(config), toy.batches(config)
    held_out = toy.batches(config, documents=9, seed=1)
    loop.fit(program, train, held_out, folder, progress=False)

    def go_on(workdir: Path) -> Any:
        state, result = loop.fit(program, train, held_out, workdir, progress=False)
        return digest(jax.device_get(state)), result.get("eval"), writers.read(workdir)

    def weights(step: int | None) -> Read:
        return lambda workdir: digest(load_params(workdir, step)[1])

    reads: dict[str, Read] = {
        "go on": go_on,
        "the latest's weights": weights(10),
        "the best weights": weights(None),
    }
    return Subject("run", folder, reads)


def corpus_of(data: DataConfig, directory: Path) -> DataConfig:
    return dataclasses.replace(data, directory=str(directory))


def make_corpus(folder: Path, source: Path, fields: bool) -> Subject:
    """A corpus of 60 labelled documents, or of as many records."""
    rng = random.Random(0)
    with source.open("w") as f:
        for k in range(60):
            words = [f"{rng.choice('bdfk')}{rng.randrange(300)}é" for _ in range(30)]
            row = {"text": " ".join(words), "words": words, "label": f"k{k % 3}"}
            f.write(json.dumps(row) + "\n")
    own = (
        RecordField("text"),
        RecordField("words", type=WordsField()),
        RecordField("label", type=Label()),
    )
    rules = PrepareConfig(fields=own) if fields else PrepareConfig(label="label")
    data = DataConfig(source=str(source), tokenizer=BPE(300), prepare=rules)

    def contents(corpus: prepare.Corpus) -> Any:
        splits = corpus.manifest["dataset"]["documents"]
        if fields:
            sources: Any = [corpus.records(split) for split in splits]
        else:
            sources = [corpus.source(split) for split in splits]
        rows = [[_plain(source[i]) for i in range(len(source))] for source in sources]
        names = corpus.class_names, splits
        return names, rows, corpus.tokenizer.encode("b7é k299é").tolist()

    def open_again(directory: Path) -> Any:
        return contents(prepare.open_corpus(corpus_of(data, directory)))

    def prepare_again(directory: Path) -> Any:
        return contents(prepare.prepare(corpus_of(data, directory)))

    def other_tokens(directory: Path) -> Any:
        other = dataclasses.replace(data, tokenizer=Bytes())
        return contents(prepare.prepare(corpus_of(other, directory)))

    prepare_again(folder)
    reads: dict[str, Read] = {
        "open": open_again,
        "prepare again": prepare_again,
        "prepare for another tokenizer": other_tokens,
    }
    return Subject("records" if fields else "documents", folder, reads)


def _plain(value: Any) -> Any:
    """Arrays and records as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value):
        return {k: _plain(v) for k, v in vars(value).items()}
    return value.tolist() if hasattr(value, "tolist") else value


# --- what comes of it ----------------------------------------------------------------


def outcome(read: Read, folder: Path, path: Path, expected: Any) -> tuple[str, str]:
    """(what came of a read with `path` below `folder` damaged, what was said)."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            same = read(folder) == expected
    except (ValueError, OSError) as e:
        text = str(e)
        return (NAMED if _names(text, folder, path) else UNNAMED), repr(e)
    except Exception as e:
        return UNNAMED, repr(e)
    if same:
        return RIGHT, ""
    return (NAMED if _names(said.getvalue(), folder, path) else WRONG), said.getvalue()


def _names(text: str, folder: Path, path: Path) -> bool:
    """Whether a text names a file, or a folder that it belongs to and nothing else."""
    owners = [p for p in path.parents if p.is_relative_to(folder)]
    owners = [p for p in owners if len(p.relative_to(folder).parts) > 1]
    return any(re.search(rf"{re.escape(str(p))}(\W|$)", text) for p in (path, *owners))


def kind(path: Path) -> str:
    """The name of a file without what is random, a number or a split in it."""
    name = re.sub(r"[0-9a-f]{16,}|(?<=_)[0-9a-f]{12}|\d+", "*", str(path))
    return re.sub(r"\b(train|validation|test)\b", "*", name)


def chosen(folder: Path, quick: bool) -> list[Path]:
    """Paths below `folder` of all files, or of the largest of each kind."""
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    if not quick:
        return files

    def key(path: Path) -> tuple[bool, int]:
        return path.is_relative_to("checkpoints/10"), (folder / path).stat().st_size

    return sorted({kind(path): path for path in sorted(files, key=key)}.values())


def examine(subject: Subject, place: Path, quick: bool) -> Counter[tuple[str, ...]]:
    """(kind of file, damage, outcome) -> how often; prints what must not be."""
    counts: Counter[tuple[str, ...]] = Counter()
    for path in chosen(subject.folder, quick):
        for damage, act in damages(1 if quick else PLACES):
            for name, read in subject.reads.items():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(subject.folder, place)
                act(place / path)
                came, text = outcome(read, place, place / path, subject.expected[name])
                counts[kind(path), damage, came] += 1
                if came in (UNNAMED, WRONG):
                    text = text[:500]
                    print(f"{subject.name}: {path} {damage}, {name}: {came}: {text}")
    return counts


def table(subject: Subject, counts: Counter[tuple[str, ...]]) -> None:
    """Prints the outcomes of each kind of file, and of each damage."""
    outcomes = (RIGHT, NAMED, UNNAMED, WRONG)
    print(f"\n{subject.name:54} " + " ".join(f"{o:>9}" for o in outcomes))
    for place in (0, 1):
        for name in dict.fromkeys(key[place] for key in counts):
            row = dict.fromkeys(outcomes, 0)
            for key, count in counts.items():
                if key[place] == name:
                    row[key[2]] += count
            numbers = " ".join(f"{n:9d}" for n in row.values())
            print(f"  {name[-52:]:{'>' if place else '<'}52} {numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute's part of it")
    parser.add_argument("--workdir", type=Path, help="default: a temporary folder")
    args = parser.parse_args()
    logging.set_verbosity(logging.FATAL)
    parent = args.workdir or Path(tempfile.mkdtemp(prefix="storage"))
    parent = parent.expanduser().resolve()
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    bad = 0
    place = parent / "damaged" / "copy"
    subjects = (
        make_run(parent / "run"),
        make_corpus(parent / "documents", parent / "documents.jsonl", False),
        make_corpus(parent / "records", parent / "records.jsonl", True),
    )
    for subject in subjects:
        if args.quick:
            subject.reads = dict(list(subject.reads.items())[::2])
        for name, read in subject.reads.items():
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(subject.folder, place)
            subject.expected[name] = read(place)
        counts = examine(subject, place, args.quick)
        table(subject, counts)
        bad += sum(n for key, n in counts.items() if key[2] in (UNNAMED, WRONG))
    if bad:
        sys.exit(f"\n{bad} reads gave something else, or an error without a name")
    print("\nevery damage was named, or changed nothing")


if __name__ == "__main__":
    main()
