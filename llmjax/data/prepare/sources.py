"""The sources that `data.source` names: a corpus of ours or of TFDS, or a path."""

import dataclasses
import difflib
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from llmjax.config import CleaningStep, DataConfig, MixturePart
from llmjax.data.corpora import docstrings
from llmjax.data.corpora.builders import BUILDERS
from llmjax.data.files import finding
from llmjax.data.prepare import local_files
from llmjax.data.store.manifest import PREPARE

ACCEPTED = (
    f"accepted: {', '.join(map(repr, sorted(BUILDERS)))} (and 'python_docs/small'…), "
    "'tfds:NAME' (a TFDS dataset with a text), or the path of a file, a folder or a "
    "Hugging Face dataset saved to disk"
)


def parts(data: DataConfig) -> Iterator[tuple[MixturePart, str]]:
    """The parts of a mixture, or one of a single source; each with its source."""
    for part in data.mixture or (MixturePart(source=data.source),):
        yield part, part.source


def name(data: DataConfig, source: str) -> str:
    """The name of the corpus of a source.

    Raises:
      ValueError, ModuleNotFoundError: see `prepare.corpus_name`.
    """
    kind, _, rest = source.partition("/")
    if kind == "python_docs":  # needs no TFDS
        return f"python_docs_{docstrings.corpus_name(rest or 'full')}"
    if not is_local(source):
        name = builder(data, source).info.full_name.replace("/", "_")
        fields = json.dumps([dataclasses.asdict(f) for f in data.prepare.fields])
        digest = hashlib.sha256(fields.encode()).hexdigest()[:12]
        return f"{name}_{digest}" if data.prepare.fields else name
    if finding.exists(source):
        return local_files.name(source, data)
    raise ValueError(_unknown(source))


def _unknown(source: str) -> str:
    """The message for a source that is neither the name of a corpus nor a path."""
    if not source:
        return f"data.source is ''; {ACCEPTED}"
    near = difflib.get_close_matches(source.partition("/")[0], BUILDERS, n=1)
    path = pathlib.PurePath(source)
    if not near and (path.suffix or len(path.parts) > 1 or source[0] in "~.*["):
        return f"data.source={source!r} is not there: {finding.missing(source)}"
    meant = f"did you mean {near[0]!r}?" if near else f"{finding.missing(source)};"
    return f"data.source={source!r} is not known; {meant} {ACCEPTED}"


def is_local(source: str) -> bool:
    """Whether a source is a path, and neither a corpus of ours nor of TFDS."""
    named = source.partition("/")[0] in BUILDERS
    return not named and not source.startswith("tfds:")


def cleaning(data: DataConfig) -> tuple[CleaningStep, ...]:
    """The steps that the texts of `data` go through, by `cleaning.steps.clean`."""
    sources = [part.source for part in data.mixture] or [data.source]
    documents = not data.prepare.fields and all(map(is_local, sources))
    return (data.prepare.resolved().cleaning or ()) if documents else ()


def features_of(data: DataConfig, source: str) -> tuple[str, ...]:
    """The names of the features of a corpus that is no local file.

    Raises:
      ValueError: there is no such corpus.
    """
    if source.partition("/")[0] == "python_docs":
        return ()
    return tuple(builder(data, source).info.features or ())


def builder(data: DataConfig, source: str) -> Any:
    """The TFDS builder of a source that is no path.

    Raises:
      ValueError: there is no such dataset, or what is on disk of it is damaged.
    """
    import tensorflow_datasets as tfds

    # protobuf has no types
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

    tfds.disable_progress_bar()
    place = {"data_dir": str(directory(data)), "file_format": "array_record"}
    kind, _, rest = source.partition("/")
    try:
        if source.startswith("tfds:"):
            return tfds.builder(source.removeprefix("tfds:"), **place)
        return BUILDERS[kind](rest, **place)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"data.source={source!r}: TFDS knows no such dataset; see "
            f"https://www.tensorflow.org/datasets/catalog, or {ACCEPTED}"
        ) from None
    except (ParseError, DatasetInfoFileError, UnicodeDecodeError) as e:
        name = kind.removeprefix("tfds:")
        raise ValueError(
            f"dataset_info.json of data.source={source!r}, below "
            f"{directory(data) / name}, is damaged ({e}); delete its folder and run "
            f"{PREPARE}"
        ) from e


def directory(data: DataConfig) -> epath.Path:
    """Where all of `data` lies."""
    return epath.Path(data.directory).expanduser()
