"""From a source's name to token files, in stages that are done once.

Below `data.directory`, `<dataset>/<config>/<version>/` holds the documents (by TFDS,
as ArrayRecord) and `tokens/<corpus>/bpe<size>/` what is made of them: tokenizer.json,
`<field>/<split>/*.npy` and, when all is there, manifest.json.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from llmjax.config import DataConfig
from llmjax.data import docstrings, tokenizer, tokens
from llmjax.data.tokens import TokenSource

FORMAT = 1  # of what this file writes
_ACCEPTED = (
    "accepted: 'python_docs', 'python_docs/small', 'tfds:NAME' (a TFDS dataset with a "
    "text), or the path of a folder of .txt files"
)
_PREPARE = "`python -m experiments.prepare_data --config=...`"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokenised text, ready to be read.

    Attributes:
      tokenizer: trained on the training split alone.
      class_names: what a label stands for; () without labels.
      manifest: where everything came from, counts, bytes, hashes.
    """

    tokenizer: tokenizer.Tokenizer
    class_names: tuple[str, ...]
    manifest: dict[str, Any]
    folder: epath.Path
    dataset: epath.Path

    def source(self, split: str, field: str = "text") -> TokenSource:
        """The documents of a split as tokens.

        Raises:
          ValueError: the corpus has no such split or field.
        """
        self._require(split, field)
        return tokens.read(self.folder / field / split)

    def texts(self, split: str, field: str = "text") -> Iterable[str]:
        """The documents of a split as text, in the order of `source`.

        Raises:
          ValueError: the corpus has no such split or field.
        """
        self._require(split, field)
        return _Texts(self.dataset, split, field)

    def _require(self, split: str, field: str) -> None:
        known = self.manifest["token_files"]
        if f"{field}/{split}" not in known:
            raise ValueError(
                f"the corpus {self.manifest['corpus']} has no split {split!r} with the "
                f"field {field!r}; accepted (field/split): {', '.join(sorted(known))}"
            )


@dataclasses.dataclass(frozen=True)
class _Texts:
    """One field of a dataset on disk; can be iterated again and again."""

    dataset: epath.Path
    split: str
    field: str

    def __len__(self) -> int:
        return len(self._data())

    def __iter__(self) -> Iterator[str]:
        for examples in self.batches():
            yield from (e[self.field].decode() for e in examples)

    def batches(self, size: int = 512) -> Iterator[list[dict[str, Any]]]:
        """The examples with all their features, `size` at a time."""
        data = self._data()
        for start in range(0, len(data), size):
            stop = min(start + size, len(data))
            yield data.__getitems__(list(range(start, stop)))

    def _data(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.dataset).as_data_source(self.split)


def prepare(data: DataConfig) -> Corpus:
    """Makes what is missing of the corpus of `data` and opens it.

    Interrupted at any moment, it goes on where it was when called again.

    Raises:
      ValueError: `data.source` or another field is not what is accepted.
      ModuleNotFoundError: python_docs reads a distribution that is not installed.
    """
    start = time.monotonic()
    name = corpus_name(data)
    dataset, account = _documents(data)
    seconds = {"documents": time.monotonic() - start}
    folder = _folder(data, name)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    found = _tokenizer(folder, dataset, account, data)
    seconds["tokenizer"] = time.monotonic() - start
    start = time.monotonic()
    files = _token_files(folder, dataset, account, found)
    seconds["tokens"] = time.monotonic() - start
    manifest = {
        "format": FORMAT,
        "corpus": name,
        "dataset_folder": str(dataset.relative_to(_directory(data))),
        "dataset": account,
        "tokenizer": {"vocab_size": found.vocab_size, "sha256": found.fingerprint},
        "token_files": files,
        "seconds": {k: round(v, 2) for k, v in seconds.items()},
    }
    written = _read_json(folder / "manifest.json")
    if {**written, "seconds": 0} != {**manifest, "seconds": 0}:
        _write_json(folder / "manifest.json", manifest)
    return open_corpus(data)


def open_corpus(data: DataConfig) -> Corpus:
    """Opens the corpus that `prepare` made.

    Raises:
      FileNotFoundError: it was not made, or not to the end.
      ValueError: what is there is of another format, or was changed since.
    """
    name = corpus_name(data)
    folder = _folder(data, name)
    manifest = _read_json(folder / "manifest.json")
    if not manifest:
        raise FileNotFoundError(
            f"data.source={data.source!r} is not prepared: no manifest.json in "
            f"{folder}; run {_PREPARE}"
        )
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'manifest.json'} is of format {manifest.get('format')}, this "
            f"version reads {FORMAT}; run {_PREPARE} again"
        )
    found = tokenizer.load(folder / "tokenizer.json")
    if found.fingerprint != manifest["tokenizer"]["sha256"]:
        raise ValueError(
            f"{folder / 'tokenizer.json'} is not the tokenizer that the manifest "
            f"beside it names; delete {folder} and run {_PREPARE} again"
        )
    dataset = _directory(data) / manifest["dataset_folder"]
    content = manifest["dataset"]["content_sha256"]
    metadata = _read_json(dataset / "metadata.json")
    if metadata and metadata.get("content_sha256") != content:
        raise ValueError(
            f"the documents in {dataset} are not those that {folder} was made from; "
            f"run {_PREPARE} again"
        )
    key = _key(content, found)
    for part, account in manifest["token_files"].items():
        if tokens.account(folder / part) != {"key": key, **account}:
            raise ValueError(
                f"the token files in {folder / part} are not those that the manifest "
                f"names; delete {folder} and run {_PREPARE} again"
            )
    classes = tuple(manifest["dataset"]["class_names"])
    return Corpus(found, classes, manifest, folder, dataset)


def corpus_name(data: DataConfig) -> str:
    """The name of the corpus of `data`: other documents, other name.

    Raises:
      ValueError: `data.source` is not what is accepted.
      ModuleNotFoundError: python_docs reads a distribution that is not installed.
    """
    kind, _, rest = data.source.partition("/")
    if kind == "python_docs":
        return f"python_docs_{docstrings.corpus_name(rest or 'full')}"
    if data.source.startswith("tfds:") or _is_folder(data.source):
        return _builder(data).info.full_name.replace("/", "_")
    raise ValueError(f"data.source={data.source!r} is not known; {_ACCEPTED}")


def _is_folder(source: str) -> bool:
    return bool(source) and epath.Path(source).expanduser().is_dir()


def _builder(data: DataConfig) -> Any:
    import tensorflow_datasets as tfds

    from llmjax.data import python_docs, text_files

    tfds.disable_progress_bar()
    place = {"data_dir": str(_directory(data)), "file_format": "array_record"}
    kind, _, rest = data.source.partition("/")
    if kind == "python_docs":
        config = python_docs.config(rest or "full")
        return python_docs.PythonDocs(config=config, **place)
    if data.source.startswith("tfds:"):
        return tfds.builder(data.source.removeprefix("tfds:"), **place)
    return text_files.TextFiles(config=text_files.config(data.source), **place)


def _documents(data: DataConfig) -> tuple[epath.Path, dict[str, Any]]:
    """Stage 1: the dataset on disk, and the account of it."""
    builder = _builder(data)
    builder.download_and_prepare()
    dataset = epath.Path(builder.data_path)
    account = _read_json(dataset / "metadata.json")
    if "content_sha256" in account:
        return dataset, account
    features = builder.info.features
    texts = [k for k, f in features.items() if type(f).__name__ == "Text"]
    if not texts:
        raise ValueError(
            f"data.source={data.source!r} has no text among its features "
            f"({', '.join(features)}); {_ACCEPTED}"
        )
    splits = {k: s.num_examples for k, s in builder.info.splits.items()}
    identity = json.dumps([builder.info.full_name, splits])
    return dataset, {
        "content_sha256": hashlib.sha256(identity.encode()).hexdigest(),
        "class_names": list(getattr(features.get("label"), "names", [])),
        "fields": texts,
        "documents": splits,
    }


def _tokenizer(
    folder: epath.Path, dataset: epath.Path, account: dict[str, Any], data: DataConfig
) -> tokenizer.Tokenizer:
    """Stage 2: the tokenizer, trained on the training split's first field."""
    wanted = {
        "content_sha256": account["content_sha256"],
        "vocab_size": data.tokenizer_vocab_size,
        "split": data.train_split,
        "format": FORMAT,
    }
    path, record = folder / "tokenizer.json", folder / "tokenizer.stage.json"
    if path.exists() and record.exists():
        found = tokenizer.load(path)
        if _read_json(record) == {**wanted, "sha256": found.fingerprint}:
            return found
    if data.train_split not in account["documents"]:
        raise ValueError(
            f"data.train_split={data.train_split!r} is not a split of "
            f"{data.source!r}; accepted: {', '.join(account['documents'])}"
        )
    texts = _Texts(dataset, data.train_split, _first_field(account))
    record.unlink(missing_ok=True)
    found = tokenizer.train(tqdm(texts, "tokenizer"), data.tokenizer_vocab_size)
    found.save(path)
    _write_json(record, {**wanted, "sha256": found.fingerprint})
    return found


def _first_field(account: dict[str, Any]) -> str:
    return "text" if "text" in account["fields"] else account["fields"][0]


def _token_files(
    folder: epath.Path,
    dataset: epath.Path,
    account: dict[str, Any],
    found: tokenizer.Tokenizer,
) -> dict[str, dict[str, int]]:
    """Stage 3: the token files of every field and split, and their accounts."""
    key = _key(account["content_sha256"], found)
    files: dict[str, dict[str, int]] = {}
    for field in account["fields"]:
        for split in account["documents"]:
            place = folder / field / split
            if (tokens.account(place) or {}).get("key") != key:
                partial = folder / f".{field}.{split}.{os.getpid()}.partial"
                _remove(partial)
                texts = _Texts(dataset, split, field)
                documents = _encoded(texts, found)
                tokens.write(partial, documents, found.token_bytes, key)
                _move(partial, place, key)
            written = tokens.account(place) or {}
            files[f"{field}/{split}"] = {k: v for k, v in written.items() if k != "key"}
    return files


def _encoded(
    texts: _Texts, found: tokenizer.Tokenizer
) -> Iterator[tuple[np.ndarray, int]]:
    """The ids and the label of each document."""
    with tqdm(total=len(texts), desc=f"tokens {texts.field}/{texts.split}") as bar:
        for examples in texts.batches():
            ids = found.encode_batch([e[texts.field].decode() for e in examples])
            labels = [int(e.get("label", -1)) for e in examples]
            yield from zip(ids, labels, strict=True)
            bar.update(len(examples))


def _key(content_sha256: str, found: tokenizer.Tokenizer) -> str:
    """What token files are a function of."""
    key = f"{content_sha256} {found.fingerprint} {FORMAT}"
    return hashlib.sha256(key.encode()).hexdigest()


def _directory(data: DataConfig) -> epath.Path:
    return epath.Path(data.directory).expanduser()


def _folder(data: DataConfig, name: str) -> epath.Path:
    return _directory(data) / "tokens" / name / f"bpe{data.tokenizer_vocab_size}"


def _move(partial: epath.Path, place: epath.Path, key: str) -> None:
    """Puts a whole folder in its place, unless another process was first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if (tokens.account(place) or {}).get("key") == key:
        _remove(partial)
        return
    _remove(place)
    partial.rename(place)


def _remove(folder: epath.Path) -> None:
    if folder.exists():
        folder.rmtree()


def _read_json(path: epath.Path) -> dict[str, Any]:
    """{} where there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}


def _write_json(path: epath.Path, value: dict[str, Any]) -> None:
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)
