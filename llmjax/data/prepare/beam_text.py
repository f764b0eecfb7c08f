"""Documents cleaned on many machines: a TFDS builder that runs as an Apache Beam job.

The steps of `local_files` on any number of machines: read, clean, filter, drop exact
and near copies, split, write as ArrayRecord. The documents that stay, their
splits and their order are the same, whatever the number of workers.
Needs Beam (`bash launch/beam.sh` has it); `prepare` reads the result without.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics, MetricsFilter
from etils import epath

from llmjax.config import PrepareConfig
from llmjax.data.cleaning import choice, duplicates, filters, steps
from llmjax.data.corpora import dataset_info
from llmjax.data.files import finding, readers

ACCOUNT = "account.json"  # in the dataset's folder while it is being written
_COUNTERS = "llmjax"
_DESCRIPTION = "Text files, cleaned by Apache Beam."
_LINES = 2**32  # more lines than a file has

At = tuple[int, int]  # number of the file, line
Sum = tuple[int, int, str]  # documents, bytes, hash
Mark = tuple[np.ndarray, int]  # MinHash signature, characters


@dataclasses.dataclass(frozen=True)
class Document:
    """A document and its origin."""

    at: At
    name: str
    text: str


@dataclasses.dataclass
class BeamTextConfig(tfds.core.BuilderConfig):
    """The files, in order, and how they become documents."""

    files: tuple[str, ...] = ()
    prepare: PrepareConfig = PrepareConfig()


def config(patterns: Iterable[str], prepare: PrepareConfig) -> BeamTextConfig:
    """The corpus of the files that match, named by their paths and sizes.

    Args:
      patterns: of files that `readers` knows, local or gs://. A file is read by one
        worker, so that a corpus should be cut into many.

    Raises:
      ValueError: a pattern without a file.
    """
    patterns = list(patterns)
    sizes: dict[str, int] = {}
    for pattern, match in zip(patterns, FileSystems.match(patterns), strict=True):
        if not match.metadata_list:
            raise ValueError(f"no file matches {pattern!r}")
        sizes.update({m.path: m.size_in_bytes for m in match.metadata_list})
    # In the order of `readers`: of equal copies the first stays.
    order = {path: (not path.endswith(".txt"), Path(path)) for path in sizes}
    files = tuple(sorted(sizes, key=order.__getitem__))
    identity = json.dumps([sorted(sizes.items()), _rules(prepare)])
    return BeamTextConfig(
        name="files_" + hashlib.sha256(identity.encode()).hexdigest()[:12],
        description=_DESCRIPTION,
        files=files,
        prepare=prepare.resolved(),
    )


def _rules(prepare: PrepareConfig) -> dict[str, Any]:
    """The part of a corpus's name that its rules are, unchanged since version 1.0.0."""
    rules = dataclasses.asdict(prepare.resolved())
    for later in ("fields", "split", "exact_duplicates"):
        del rules[later]
    processes = {name: rules.pop(name) for name in ("shards", "workers")}
    return {**rules, "annotate": "", **processes}


class BeamText(tfds.core.GeneratorBasedBuilder):
    """Features text, name (file and line), label (-1)."""

    name = "beam_text"
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict(
            {"text": text, "name": text, "label": np.int32}
        )
        return dataset_info.info(self, _DESCRIPTION, features)

    def _split_generators(
        self, dl_manager: Any, pipeline: beam.Pipeline
    ) -> dict[str, beam.PCollection]:
        assert isinstance(self.builder_config, BeamTextConfig)
        c = self.builder_config
        documents = (
            pipeline
            | "Files" >> beam.Create(list(enumerate(c.files)))
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(read, c.prepare)
        )
        placed = clean_and_split(documents, c.prepare)
        _ = (
            placed
            | "Measure" >> beam.MapTuple(_measure)
            | "AddUp" >> beam.CombinePerKey(_add_up)
            | "Accounts" >> beam.combiners.ToList()
            | "WriteAccount" >> beam.Map(_write_account, str(self.data_path / ACCOUNT))
        )
        splits = splits_of(c.prepare)
        parts = placed | "Part" >> beam.Partition(_part, len(splits), splits)
        return {
            split: part | f"Example_{split}" >> beam.MapTuple(_example)
            for split, part in zip(splits, parts, strict=True)
        }

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        path = self.data_path / ACCOUNT
        account = json.loads(path.read_text())
        path.unlink()
        results = pipeline_result.metrics().query(
            MetricsFilter().with_namespace(_COUNTERS)
        )
        counts = {m.key.metric.name: m.result for m in results["counters"]}
        counts["kept"] = sum(account["documents"].values())
        self.info.metadata.update(
            class_names=[], fields=["text"], cleaning=counts, **account
        )

    def _example_writer(self) -> tfds.core.writer.ExampleWriter:
        return _Writer(file_format=self.info.file_format)

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError  # _split_generators gives the examples themselves


class _Writer(tfds.core.writer.ExampleWriter):
    """Writes here first: the library of ArrayRecord writes to no bucket."""

    def write(self, path: Any, examples: Any) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            here = Path(scratch) / "shard"
            super().write(here, examples)
            epath.Path(here).copy(path, overwrite=True)


# --- documents -----------------------------------------------------------------------


def read(file: tuple[int, str], prepare: PrepareConfig) -> Iterator[Document]:
    """The documents of one file.

    Raises:
      ValueError: the file is not what its name says, or lacks the field; says where.
    """
    number, path = file
    with _here(path) as local:
        i = 0
        for file_slice in finding.find(local).slices:
            for text, _ in readers.read(file_slice, prepare.text, ""):
                i += 1
                yield Document((number, i), f"{path}:{i}", text)


@contextlib.contextmanager
def _here(path: str) -> Iterator[str]:
    """A file on this machine: itself, or a copy for as long as it is read."""
    if "://" not in path:
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / path.rpartition("/")[2]
        packed = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        with packed, local.open("wb") as target:
            shutil.copyfileobj(packed, target)
        yield str(local)


def clean_and_split(
    documents: beam.PCollection, prepare: PrepareConfig
) -> beam.PCollection:
    """The documents that stay, cleaned: (split, Document)."""
    prepare = prepare.resolved()
    unique = (
        documents
        | "Clean" >> beam.FlatMap(_clean, prepare)
        | "Hash" >> beam.Map(_hash)
        | "SameText" >> beam.GroupByKey()
        | "First" >> beam.MapTuple(_first)
    )
    if not prepare.near_duplicates:
        return unique | "Split" >> beam.Map(_place, [], prepare)
    marks = unique | "Mark" >> beam.Map(_mark)
    pairs = relatives(marks) | "Relatives" >> beam.combiners.ToList()
    fates = pairs | "Decide" >> beam.FlatMap(decide)
    return (
        {"document": unique | "At" >> beam.Map(lambda d: (d.at, d)), "fate": fates}
        | "Meet" >> beam.CoGroupByKey()
        | "Place" >> beam.FlatMap(_met, prepare)
        | "Kept" >> beam.Filter(lambda placed: placed[0] != "")
    )


def _clean(document: Document, prepare: PrepareConfig) -> Iterator[Document]:
    _count("collected")
    text = steps.clean(document.text, prepare.cleaning)
    if len(text) < (prepare.min_characters or 1):
        _count("dropped_short")
        return
    for rule in filters.rules(prepare):
        if broken := rule(text):
            _count(f"dropped_{broken}")
            return
    yield dataclasses.replace(document, text=text)


def _hash(document: Document) -> tuple[bytes, Document]:
    return choice.hashes_of([document.text]).tobytes(), document


def _first(key: bytes, copies: Iterable[Document]) -> Document:
    first, *others = sorted(copies, key=lambda d: d.at)
    _count("dropped_exact_duplicate", len(others))
    return first


def _met(
    entry: tuple[At, dict[str, Iterable[Any]]], prepare: PrepareConfig
) -> Iterator[tuple[str, Document]]:
    for document in entry[1]["document"]:
        yield _place(document, entry[1]["fate"], prepare)


def _place(
    document: Document, fates: Iterable[str], prepare: PrepareConfig
) -> tuple[str, Document]:
    """The split of a document; "" for a near copy."""
    for fate in fates:
        return fate, document
    related = np.zeros(1, bool)
    (split,) = choice.divide(choice.hashes_of([document.text]), related, prepare)
    return splits_of(prepare)[split], document


def splits_of(prepare: PrepareConfig) -> list[str]:
    """The names of the splits that are to have documents."""
    shares = {"validation": prepare.validation, "test": prepare.test}
    return ["train", *(split for split, share in shares.items() if share > 0)]


# --- near copies ---------------------------------------------------------------------


def relatives(marks: beam.PCollection) -> beam.PCollection:
    """Pairs of similar documents, from (at, (MinHash signature, length)) of all.

    Documents whose signatures agree on a band meet in a bucket; the signatures of each
    pair are then brought together.

    Returns:
      (at, at, similarity, length, length) of the relatives.
    """
    pairs = (
        marks
        | "Bands" >> beam.FlatMapTuple(_bands)
        | "Bucket" >> beam.GroupByKey()
        | "Neighbours" >> beam.FlatMapTuple(_neighbours)
        | "Once" >> beam.Distinct()
    )
    halves = (
        {"mark": marks, "others": pairs}
        | "LeftMark" >> beam.CoGroupByKey()
        | "Send" >> beam.FlatMapTuple(_send)
    )
    return (
        {"mark": marks, "others": halves}
        | "RightMark" >> beam.CoGroupByKey()
        | "Compare" >> beam.FlatMapTuple(_compare)
    )


def _mark(document: Document) -> tuple[At, Mark]:
    (signature,) = duplicates.signatures([document.text])
    return document.at, (signature, len(document.text))


def _bands(at: At, mark: Mark) -> Iterator[tuple[bytes, At]]:
    (keys,) = duplicates.bucket_keys(mark[0][None], duplicates.SIGNATURE_BANDS)
    for band, key in enumerate(keys):
        yield bytes([band]) + key.tobytes(), at


def _neighbours(bucket: bytes, members: Iterable[At]) -> Iterator[tuple[At, At]]:
    ordered = sorted(members)
    for i, first in enumerate(ordered):
        for second in ordered[i + 1 : i + duplicates.MAX_BUCKET]:
            yield first, second


def _send(at: At, joined: dict[str, Iterable[Any]]) -> Iterator[tuple[At, Any]]:
    (mark,) = joined["mark"]
    for other in joined["others"]:
        yield other, (at, mark)


def _compare(at: At, joined: dict[str, Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    ((signature, length),) = joined["mark"]
    for other, (theirs, size) in joined["others"]:
        similarity = float((signature == theirs).mean())
        if similarity >= choice.CLUSTER_SIMILARITY:
            yield other, at, similarity, size, length


def decide(pairs: list[tuple[Any, ...]]) -> Iterator[tuple[At, str]]:
    """Fates of documents with relatives: (at, "" to drop or "train").

    All pairs of relatives meet here, on one worker: its memory bounds their number, at
    some hundreds of bytes each, not the documents'.
    """
    if not pairs:
        return
    lengths_at = {p[k]: p[k + 3] for p in pairs for k in (0, 1)}
    order = sorted(lengths_at)
    number = {at: i for i, at in enumerate(order)}
    edges = np.array([[number[p[0]], number[p[1]]] for p in pairs], np.int64)
    similarity = np.array([p[2] for p in pairs])
    lengths = np.array([lengths_at[at] for at in order])
    drop = duplicates.drop_near_copies(
        edges[similarity >= choice.DROP_SIMILARITY], lengths
    )
    _count("dropped_near_duplicate", len(drop))
    cluster = duplicates.connected(len(order), edges).tolist()
    alive = [i for i in range(len(order)) if i not in drop]
    sizes = {
        c: len(list(members))
        for c, members in itertools.groupby(sorted(cluster[i] for i in alive))
    }
    yield from ((order[i], "") for i in drop)
    yield from ((order[i], "train") for i in alive if sizes[cluster[i]] > 1)


# --- the dataset ---------------------------------------------------------------------


def _part(placed: tuple[str, Document], count: int, splits: list[str]) -> int:
    return splits.index(placed[0])


def _example(split: str, document: Document) -> tuple[int, dict[str, Any]]:
    number, line = document.at
    example = {"text": document.text, "name": document.name, "label": -1}
    return number * _LINES + line, example


def _measure(split: str, document: Document) -> tuple[str, Sum]:
    """The split of a document, and its share of the account."""
    key = f"{split}\0{document.name}\0{document.text}\0"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return split, (1, len(document.text.encode()), digest)


def _add_up(values: Iterable[Sum]) -> Sum:
    documents, size, digest = 0, 0, 0
    for d, s, h in values:  # hashes are summed, so that their order does not count
        documents, size, digest = documents + d, size + s, digest + int(h, 16)
    return documents, size, f"{digest % 2**256:064x}"


def _write_account(splits: list[tuple[str, Sum]], path: str) -> None:
    totals = dict(sorted(splits))
    digest = hashlib.sha256(json.dumps(totals).encode()).hexdigest()
    account = {
        "content_sha256": digest,
        "documents": {split: t[0] for split, t in totals.items()},
        "bytes": {split: t[1] for split, t in totals.items()},
    }
    epath.Path(path).write_text(json.dumps(account))


def _count(name: str, value: int = 1) -> None:
    if value:
        Metrics.counter(_COUNTERS, name).inc(value)
