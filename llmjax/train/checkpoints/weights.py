"""Weights from elsewhere, before they are read: their model, tokenizer and classes.

`init.path` is the workdir of a run, or a folder, a .gguf file or a package in the hub's
formats. Whatever it is, a tokenizer belongs to its weights: every run keeps its own in
`<workdir>/tokenizer/`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from llmjax import hub
from llmjax.config import (
    Checkpoint,
    DataConfig,
    MixturePart,
    ModelConfig,
    RunConfig,
    TextReading,
    TokenizerConfig,
    TokenizerFile,
)
from llmjax.data.files import finding
from llmjax.data.prepare import prepare
from llmjax.data.store import manifest
from llmjax.data.store.corpus import Corpus
from llmjax.data.tokenizers import comparison
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.hub import classes, gguf, packages, text_vectors
from llmjax.hub.origin import HUB
from llmjax.hub.stored_model import open_model
from llmjax.hub.table import Classification
from llmjax.hub.tokenizer import check_numbers
from llmjax.parallel.processes import distributed
from llmjax.tasks import registry
from llmjax.tasks.task import Task
from llmjax.train.checkpoints.checkpoints import FOLDER, Checkpoints

CONFIG_FILE = "config.json"
TOKENIZER = "tokenizer"  # folder of a workdir
PLACES = (
    "accepted: the workdir of a run, a folder or .gguf file of the hub, package:NAME"
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights at a path.

    Attributes:
      path: `init.path`.
      model: their model's config.
      labels: names of their classes; () where they have none.
      ways: the ways to classes of their family or their run, by the name of the module
        with the scores.
      learned: the config that their run trained its tokenizer by; None: of no run.
      place: file or folder of their tokenizer; None: they have none.
      said: the way to a vector of a text that their run says; None: none, or of no run.
      start: id that their decoder begins with, where it has an encoder; None: unsaid.
    """

    path: str
    model: ModelConfig
    labels: tuple[str, ...] = ()
    ways: Mapping[str, Classification] = dataclasses.field(default_factory=dict)
    learned: TokenizerConfig | None = None
    place: str | None = None
    start: int | None = None
    said: TextReading | None = None

    @property
    def reading(self) -> TextReading | None:
        """The way from a text to its vector that their run or folder says.

        Raises:
          ValueError: a folder of sentence-transformers says one that we can't go.
        """
        if self.said is not None or not of_hub(self.path):
            return self.said
        folder = open_model(self.path).path
        return text_vectors.read(folder) if folder.is_dir() else None

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Their tokenizer; None where they have none.

        Raises:
          ValueError: it is broken.
        """
        return None if self.place is None else _load(self.place)

    def tokenizer_file(self, directory: str) -> TokenizerFile:
        """Their tokenizer as a config's, in a file that the data's room reads.

        Args:
          directory: `data.directory`, for a tokenizer that lies in no file of its own.
        """
        assert self.place is not None and self.tokenizer is not None
        if not self.place.endswith(".gguf"):
            return TokenizerFile(self.place)
        folder = epath.Path(directory).expanduser() / "tokenizers"
        file = folder / self.tokenizer.fingerprint[:12] / "tokenizer.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            self.tokenizer.save(file)
        return TokenizerFile(str(file.parent))


def of_hub(path: str) -> bool:
    """Whether a path is of the hub's formats, and not the workdir of a run."""
    if path.startswith(packages.PREFIX) or path.endswith(".gguf"):
        return True
    folder = epath.Path(path).expanduser()
    if (folder / FOLDER).is_dir():  # a run has its config in checkpoints too
        return False
    remedy = "copy it back from where it is whole"
    return "model_type" in manifest.read_json(folder / CONFIG_FILE, remedy)


def describe(init: Checkpoint) -> Weights:
    """The weights at `init.path`, none of them read.

    Raises:
      FileNotFoundError, ValueError: nothing is there that can be read.
    """
    if not of_hub(init.path):
        return _of_run(init)
    stored = open_model(init.path)
    if not stored.path.is_dir():  # of a .gguf file
        own = "tokenizer.ggml.tokens" in gguf.read_metadata(stored.path)
        return Weights(init.path, stored.cfg, place=str(stored.path) if own else None)
    names, place = _class_names(stored.path / CONFIG_FILE), _place(stored.path)
    heads = [head.__name__ for head in classes.HEADS]
    ways = {head: way for head in heads if (way := stored.way_to_classes(head))}
    two = stored.cfg.architecture == "encoder_decoder"
    starts = hub.generation(stored.path).start_tokens if two else ()
    start = next(iter(starts), None)
    return Weights(init.path, stored.cfg, names, ways, place=place, start=start)


def _place(folder: Path | epath.Path) -> str | None:
    """A folder of the hub, if it has a tokenizer."""
    check_numbers(Path(folder))
    try:
        tokenizer_lib.load(folder)
    except FileNotFoundError:
        return None
    return str(folder)


def _of_run(init: Checkpoint) -> Weights:
    _check_place(init.path)
    with contextlib.closing(Checkpoints(init.path)) as checkpoints:
        config = checkpoints.run_config(init.step)
    task: Any = config.task
    place = tokenizer_place(init.path, config)
    weights = Weights(
        init.path,
        config.model,
        learned=config.data.tokenizer,
        place=place,
        said=registry.TASKS[type(task)].reading_of(task),
        start=getattr(task, "decoder_start", None),
    )
    if (kind := registry.labelled(task)) is None:
        return weights
    ways = {kind.head.__name__: Classification(*kind.way(task))}
    return dataclasses.replace(weights, labels=task.labels, ways=ways)


def _check_place(path: str) -> None:
    """Raises FileNotFoundError where neither a run nor a model of the hub is."""
    folder = epath.Path(path).expanduser()
    if (folder / FOLDER).is_dir():
        return
    if folder.exists():
        reason = f"has no {FOLDER}/, as a run, and no {CONFIG_FILE} with a model_type"
    else:
        near = "" if "://" in path else f": {finding.missing(path)}"
        reason = f"is not there{near}"
    end = " " if reason.endswith("?") else "; "
    raise FileNotFoundError(f"init.path={path!r} {reason}{end}{PLACES}")


def _class_names(file: Path) -> tuple[str, ...]:
    """The names of `id2label`, unless they are transformers' own for none."""
    named: Any = manifest.read_json(epath.Path(file)).get("id2label") or {}
    if not isinstance(named, dict) or not all(
        isinstance(name, str) for name in named.values()
    ):
        return ()
    names = tuple(named.get(str(k), f"LABEL_{k}") for k in range(len(named)))
    if names == tuple(f"LABEL_{k}" for k in range(len(named))):
        return ()
    return names


# --- the tokenizer of a run ----------------------------------------------------------


def keep_tokenizer_of(task: Task, workdir: epath.Path) -> None:
    """Writes the tokenizer of a run's task beside its checkpoints, unless it is there.

    Raises:
      ValueError: another one is there.
    """
    tokenizer = getattr(task, "vocabulary", None)
    if not isinstance(tokenizer, Tokenizer) or not distributed.is_leader():
        return
    file = workdir / TOKENIZER / "tokenizer.json"
    if file.exists():
        if comparison.agree(tokenizer_lib.load(file), tokenizer):
            return
        raise ValueError(
            f"{file.parent} has another tokenizer than this run; give another --workdir"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(file)


def own_tokenizer(workdir: epath.PathLike) -> str | None:
    """The folder of the tokenizer that a run keeps; None: it is from before."""
    folder = epath.Path(workdir).expanduser() / TOKENIZER
    return str(folder) if (folder / "tokenizer.json").exists() else None


def open_corpora(
    workdir: epath.PathLike | None, data: DataConfig
) -> list[tuple[MixturePart, Corpus]]:
    """The corpora of a run's data, whose tokenizer must be the one that it keeps.

    A tokenizer's file may be gone since.

    Raises:
      FileNotFoundError, ValueError: as `prepare.open_corpora`, or another tokenizer.
    """
    own = None if workdir is None else own_tokenizer(workdir)
    if own is None:
        return prepare.open_corpora(data)
    if isinstance(data.tokenizer, TokenizerFile):
        data = dataclasses.replace(data, tokenizer=TokenizerFile(own))
    corpora = prepare.open_corpora(data)
    kept, theirs = tokenizer_lib.load(own), corpora[0][1].tokenizer
    if not comparison.agree(kept, theirs):
        raise ValueError(
            f"the corpus in {corpora[0][1].folder} has another tokenizer than the run "
            f"in {workdir}: {comparison.difference(kept, theirs)}; set "
            f"data.tokenizer.kind='file' and .path={own!r}, and prepare it again"
        )
    return corpora


def tokenizer_place(workdir: str, config: RunConfig) -> str | None:
    """Where the tokenizer of a run lies; None: nowhere.

    In its workdir, in the files of the hub that it was converted from, or, of a run
    from before runs kept theirs, in its corpus.
    """
    if (own := own_tokenizer(workdir)) is not None:
        return own
    kept = epath.Path(workdir).expanduser() / HUB
    if kept.is_dir():  # its config names no corpus of its own
        return _place(kept)
    try:
        corpus = prepare.open_corpus(config.data)
    except (FileNotFoundError, ValueError, ModuleNotFoundError):
        return None
    return str(corpus.folder / "tokenizer.json")


def load_tokenizer(workdir: str, config: RunConfig) -> Tokenizer:
    """The tokenizer of a run; `config`: the run's.

    Raises:
      FileNotFoundError, ValueError: it is nowhere; of its corpus.
    """
    place = tokenizer_place(workdir, config)
    if place is None:
        return prepare.open_corpus(config.data).tokenizer
    return _load(place)


def _load(place: str) -> Tokenizer:
    if place.endswith(".gguf"):
        return hub.tokenizer(place)
    return tokenizer_lib.load(place)
