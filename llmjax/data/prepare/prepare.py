"""From a source's name to token files, in stages that are done once.

Below `data.directory`, documents lie in `<dataset>/<config>/<version>/` (by TFDS, as
ArrayRecord) or `files/<corpus>/` (of local files), records in `records/<corpus>/`, and
their tokens in `tokens/<corpus>/<tokenizer>/`: tokenizer.json, `<field>/<split>/*.npy`
or `records/<split>.arrow` and, when all is there, manifest.json. Killed at any moment,
it continues when called again.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from llmjax import __version__
from llmjax.config import (
    Bytes,
    DataConfig,
    Items,
    MixturePart,
    TokenizerFile,
    WordPiece,
    wording,
)
from llmjax.data.files import finding
from llmjax.data.prepare import (
    encoding,
    learned_tokenizer,
    local_files,
    record_files,
    sources,
)
from llmjax.data.prepare.record_files import RecordFiles
from llmjax.data.store import manifest, tokens
from llmjax.data.store.corpus import Corpus as Corpus
from llmjax.data.store.documents import (
    Documents,
    account_of,
    check_files,
    open_documents,
)
from llmjax.data.store.manifest import PREPARE, read_json, write_json
from llmjax.data.tokenizers import tokenizer as tokenizer_lib

FORMAT = 2  # of what this file writes


def prepare(data: DataConfig) -> Corpus:
    """Writes what is missing of the corpora of `data`, and opens the first.

    Interrupted at any moment, it continues when called again.

    Raises:
      ValueError: `data.source` or another field is not what is accepted, or a file of
        the source is not what its name says.
      ModuleNotFoundError: python_docs reads a distribution, or a filter or a format
        needs a library, that is not installed.
    """
    first: Corpus | None = None
    for _, source in sources.parts(data):
        _prepare(data, source, first)
        first = first or _open(data, source, None)
    assert first is not None
    return first


def open_corpus(data: DataConfig) -> Corpus:
    """Opens the corpus that `prepare` wrote; of a mixture the first.

    Raises:
      FileNotFoundError: it is not prepared, or not completely.
      ValueError: what is there is of another format, was changed since, or is damaged.
    """
    return open_corpora(data)[0][1]


def open_corpora(data: DataConfig) -> list[tuple[MixturePart, Corpus]]:
    """Opens all corpora of a mixture, or the one of a single source.

    Sizes are checked each time, hashes of files when they have changed.

    Raises:
      FileNotFoundError, ValueError: see `open_corpus`.
    """
    first: Corpus | None = None
    opened = []
    for part, source in sources.parts(data):
        corpus = _open(data, source, first)
        first = first or corpus
        opened.append((part, corpus))
    return opened


def corpus_name(data: DataConfig) -> str:
    """The name of the corpus of `data`, of a mixture the first: other documents, other
    name.

    Raises:
      ValueError: `data.source` is not what is accepted.
      ModuleNotFoundError: python_docs reads a distribution that is not installed.
    """
    return sources.name(data, next(sources.parts(data))[1])


# --- writing -------------------------------------------------------------------------


def _prepare(data: DataConfig, source: str, first: Corpus | None) -> None:
    """Prepares one corpus, with the tokenizer of the first if there is one."""
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds[stage] = round(time.monotonic() - start, 2)

    with timed("hashing"):
        name = sources.name(data, source)
    if sources.is_local(source) and (left_out := finding.find(source).left_out):
        print(
            f"data.source={source!r}: {wording.count(len(left_out), 'file')} left out, "
            f"of no format that is read: {finding.counted(left_out)}",
            file=sys.stderr,
        )
    documents: Documents | RecordFiles
    if data.prepare.fields:
        documents = _records(data, source, name, timed)
    else:
        documents = _documents(data, source, timed)
    if sources.is_local(source) and documents.folder.name != name:
        raise local_files.changed(source)
    folder = _folder(data, name, first)
    folder.mkdir(parents=True, exist_ok=True)
    with timed("checking"):
        if isinstance(documents, RecordFiles):
            verified = documents.folder / "verified.json"
            manifest.verify(documents.folder, documents.account["files"], verified)
        else:
            check_files(documents.folder, write=True)
    with timed("tokenizer"):
        tokenizer = learned_tokenizer.learned(folder, documents, data, first)
    files: dict[str, Any] = {}
    record_account: dict[str, Any] = {}
    with timed("tokens"):
        if isinstance(documents, RecordFiles):
            record_account["record_files"] = record_files.write_tokens(
                folder, documents, tokenizer
            )
        else:
            files = encoding.write(folder, documents, tokenizer, data.prepare)
    account = {
        "format": FORMAT,
        "code": __version__,
        "corpus": name,
        "dataset_folder": str(documents.folder.relative_to(sources.directory(data))),
        "dataset": documents.account,
        "tokenizer": {
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.fingerprint,
        },
        "token_files": files,
        **record_account,
        "seconds": seconds,
    }
    path = folder / "manifest.json"
    if {**read_json(path), "seconds": 0} != {**account, "seconds": 0}:
        write_json(path, account)


def _records(
    data: DataConfig, source: str, name: str, timed: local_files.Timed
) -> RecordFiles:
    """Stage 1 of a corpus of records: its files, and the account of them."""
    fields = data.prepare.fields

    def make_input() -> record_files.RecordInput:
        if not sources.is_local(source):
            builder = sources.builder(data, source)
            builder.download_and_prepare()
            return record_files.tfds_input(builder, fields)
        local = record_files.local_input(source, data.prepare)

        def rows() -> record_files.SplitRows:
            yield from local.rows()
            if sources.name(data, source) != name:
                raise local_files.changed(source)

        return dataclasses.replace(local, rows=rows)

    return record_files.prepare(name, data, make_input, timed)


def _documents(data: DataConfig, source: str, timed: local_files.Timed) -> Documents:
    """Stage 1: the documents on disk, and the account of them."""
    if sources.is_local(source):
        return local_files.prepare(source, data, timed)
    builder = sources.builder(data, source)
    with timed("documents"):
        builder.download_and_prepare()
    dataset = epath.Path(builder.data_path)
    account = account_of(dataset)
    if "content_sha256" in account:
        return open_documents(dataset, account)
    features = builder.info.features
    texts = [k for k, f in features.items() if type(f).__name__ == "Text"]
    if not texts:
        raise ValueError(
            f"data.source={source!r} has no text among its features "
            f"({', '.join(features)}); {sources.ACCEPTED}"
        )
    label = dict(features).get("label")
    splits = {k: s.num_examples for k, s in builder.info.splits.items()}
    identity = json.dumps([builder.info.full_name, splits])
    account = {
        "content_sha256": hashlib.sha256(identity.encode()).hexdigest(),
        "class_names": list(getattr(label, "names", None) or []),
        "fields": texts,
        "documents": splits,
        "bytes": {k: s.num_bytes for k, s in builder.info.splits.items()},
    }
    return open_documents(dataset, account)


def _folder(data: DataConfig, name: str, first: Corpus | None) -> epath.Path:
    """The folder of a corpus's token files; each tokenizer has another.

    A file's has that in which its very tokenizer was learned, if it is there.
    """
    kind = data.tokenizer
    folder = kind.kind
    if isinstance(kind, TokenizerFile):
        fingerprint = tokenizer_lib.make(kind, ()).fingerprint
        for path in sorted(
            (sources.directory(data) / "tokens" / name).glob("*/manifest.json")
        ):
            if read_json(path).get("tokenizer", {}).get("sha256") == fingerprint:
                return path.parent
        folder += f"-{fingerprint[:12]}"
    elif isinstance(kind, Items):
        folder += f"-{kind.field}"
    elif not isinstance(kind, Bytes):
        folder += str(kind.vocab_size)
        if isinstance(kind, WordPiece) and not kind.lowercase:
            folder += "-cased"
        if first is not None:
            folder += f"-of-{first.manifest['corpus']}"
    return sources.directory(data) / "tokens" / name / folder


# --- opening -------------------------------------------------------------------------


def _open(data: DataConfig, source: str, first: Corpus | None) -> Corpus:
    """Opens one corpus, and checks its files."""
    folder = _folder(data, sources.name(data, source), first)
    path = folder / "manifest.json"
    account = read_json(path)
    if not account:
        raise FileNotFoundError(
            f"data.source={source!r} is not prepared: no manifest.json in {folder}; "
            f"run {PREPARE}"
        )
    if account.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {account.get('format')}, this version reads "
            f"{FORMAT}; run {PREPARE} again"
        )
    tokenizer = tokenizer_lib.load(folder / "tokenizer.json")
    if tokenizer.fingerprint != account["tokenizer"]["sha256"]:
        raise ValueError(
            f"{folder / 'tokenizer.json'} is not the tokenizer that the manifest "
            f"beside it names; delete {folder} and run {PREPARE} again"
        )
    if first is not None and tokenizer.fingerprint != first.tokenizer.fingerprint:
        raise ValueError(
            f"{folder} was made with another tokenizer than the mixture's first source "
            f"in {first.folder}; run {PREPARE} again"
        )
    dataset = sources.directory(data) / account["dataset_folder"]
    content = account["dataset"]["content_sha256"]
    if account_of(dataset).get("content_sha256", content) != content:
        raise ValueError(
            f"the documents in {dataset} are not those that {folder} was made from; "
            f"run {PREPARE} again"
        )
    key = encoding.key(content, tokenizer.fingerprint)
    files: dict[str, dict[str, Any]] = {}
    for part, files_account in account["token_files"].items():
        if tokens.account(folder / part) != {"key": key, **files_account}:
            raise ValueError(
                f"the token files in {folder / part} are not those that the manifest "
                f"names; delete {folder / part} and run {PREPARE} again"
            )
        files |= {
            f"{part}/{name}": file for name, file in files_account["files"].items()
        }
    files |= account.get("record_files", {})
    manifest.verify(folder, files, folder / "verified.json")
    if "record_files" in account:
        arrow_files = account["dataset"]["files"]
        manifest.verify(dataset, arrow_files, folder / "verified_records.json")
    classes = tuple(account["dataset"]["class_names"])
    return Corpus(tokenizer, classes, account, folder, dataset)
