"""A config completed by the weights that its run starts from, and by its data.

`init.path` brings the architecture, the tokenizer and the special tokens; the classes
of a task are those of the data. A run's own config says all of it.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import multihost

from llmjax.config import (
    BPE,
    Adapters,
    Bytes,
    Checkpoint,
    DataConfig,
    FullTuning,
    Learned,
    LoRA,
    ModelConfig,
    RunConfig,
    TokenizerFile,
)
from llmjax.data.prepare import prepare
from llmjax.data.prepare.sources import is_local
from llmjax.data.store.corpus import Corpus
from llmjax.data.tokenizers import comparison
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.hub.adapters.places import our_names
from llmjax.hub.save import way_to_classes
from llmjax.parallel.processes import distributed
from llmjax.tasks.labelled.labelled import LabelledTask, Way
from llmjax.tasks.registry import TASKS, labelled, make_model
from llmjax.tasks.task import Task
from llmjax.train import architecture
from llmjax.train.checkpoints import resume
from llmjax.train.checkpoints import weights as weights_lib
from llmjax.train.checkpoints.checkpoints import FOLDER, Checkpoints
from llmjax.train.checkpoints.weights import Weights

TARGETS = ("targets", "exclude", "outputs", "inputs")  # fields of adapters' configs
PATIENCE = 24 * 60 * 60  # seconds that processes wait for the first to prepare


def complete(
    config: RunConfig,
    workdir: epath.PathLike | None = None,
    *,
    corpus: bool = True,
    said: Collection[str] = (),
) -> RunConfig:
    """`config` with all that its weights and its data say; complete ones stay the same.

    Args:
      config: of a run; with `init.kind` "checkpoint" its model, its tokenizer and its
        special tokens become those at `init.path`.
      workdir: of the run; one that goes on stays what it was, wherever the weights are
        now.
      corpus: read the columns of labelled texts off a local source, and the names of
        classes off the corpus of `config.data`, if prepared.
      said: keys that were set by hand, as "model.dropout": those at their default are
        not taken for unsaid.

    Raises:
      ValueError: a field, or a tokenizer, that does not belong to the weights; it names
        the key.
    """
    if (saved := _going_on(config, workdir)) is not None:
        return _with_targets(_as_saved(config, saved, said))
    weights: Weights | None = None
    if isinstance(config.init, Checkpoint):
        init = config.init
        weights = weights_lib.describe(init)
        config = _with_tokenizer(config, weights, corpus, said)
        if init.architecture == "checkpoint":
            config = _with_model(config, weights, said)
        config = _with_start(config, weights.start)
    if corpus:
        first = not jax.distributed.is_initialized() or distributed.is_leader()
        columns = TASKS[type(config.task)].with_columns
        data = columns(config.task, config.data, said=first)
        config = _with_vocabulary(dataclasses.replace(config, data=data), said)
    config = dataclasses.replace(config, task=_reading(config, weights))
    kind = labelled(config.task)
    if kind is None:
        return _with_targets(config)
    task = kind.with_way(config.task, _way(config, kind, weights))
    corpora = _corpora(config) if corpus else ()
    task = kind.with_labels(task, _labels(config, kind, weights, corpora))
    task = kind.with_counts(task, corpora or (), config.data.train_split)
    return _with_targets(dataclasses.replace(config, task=task))


def prepare_local(data: DataConfig, workdir: epath.PathLike | None = None) -> None:
    """Prepares corpora of local files, unless they are; the first process for all.

    Args:
      data: of a run.
      workdir: of the run, which may keep its tokenizer.

    Raises:
      ValueError: as `prepare.prepare`, or the workdir holds a run on other sources.
    """
    if (saved := _saved(workdir)) is not None:
        resume.check_sources(data, saved.data, workdir)
    sources = [part.source for part in data.mixture] or [data.source]
    if not all(map(is_local, sources)):
        return
    several = jax.distributed.is_initialized()
    if not several or distributed.is_leader():  # whose failure ends the others
        try:
            weights_lib.open_corpora(workdir, data)
        except FileNotFoundError:
            prepare.prepare(data)
    if several:
        multihost.sync_global_processes("corpora prepared", timeout=PATIENCE)


def check_tokenizer(
    config: RunConfig, task: Task, workdir: epath.PathLike | None = None
) -> None:
    """Raises ValueError for a task with another tokenizer than the weights at
    `init.path`; a run that goes on has begun with them."""
    init, vocabulary = config.init, getattr(task, "vocabulary", None)
    if not isinstance(init, Checkpoint) or not isinstance(vocabulary, Tokenizer):
        return
    if _going_on(config, workdir) is not None:
        return
    theirs = weights_lib.describe(init).tokenizer
    if theirs is not None and not comparison.agree(theirs, vocabulary, grown=True):
        raise ValueError(
            f"the tokenizer of the data is not that of the weights at init.path="
            f"{init.path!r}: {comparison.difference(theirs, vocabulary)}; prepare the "
            "data again with this config, which takes the weights' own"
        )


def goes_on(workdir: epath.PathLike) -> bool:
    """Whether a workdir holds a run that has begun."""
    return _saved(workdir) is not None


def _going_on(config: RunConfig, workdir: epath.PathLike | None) -> RunConfig | None:
    """The config of a run from the same weights that a workdir holds; None: none."""
    saved = _saved(workdir) if isinstance(config.init, Checkpoint) else None
    return saved if saved is not None and saved.init == config.init else None


def _saved(workdir: epath.PathLike | None) -> RunConfig | None:
    """The config of the run that a workdir holds; None: none, or one that is damaged,
    which is said where its checkpoint is read."""
    if workdir is None:
        return None
    folder = epath.Path(workdir).expanduser() / FOLDER
    if not folder.is_dir():
        return None
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.latest_step
        try:
            return None if step is None else checkpoints.run_config(step)
        except ValueError:
            return None


def _as_saved(config: RunConfig, saved: RunConfig, said: Collection[str]) -> RunConfig:
    """A config with what it was completed with when its run began."""
    init, data, task = config.init, config.data, config.task
    assert isinstance(init, Checkpoint)
    if init.architecture == "checkpoint":
        model = architecture.merged(config.model, saved.model, init.path, said)
        config = _replaced(config, model)
    learned = not isinstance(data.tokenizer, TokenizerFile | Bytes)
    if learned and isinstance(saved.data.tokenizer, TokenizerFile):
        data = dataclasses.replace(data, tokenizer=saved.data.tokenizer)
    prepare, before = data.prepare, saved.data.prepare
    if not prepare.label and before.label:
        same = dataclasses.replace(prepare, label=before.label, text=before.text)
        data = dataclasses.replace(data, prepare=same)
    if not prepare.fields and before.fields:
        same = dataclasses.replace(prepare, fields=before.fields)
        data = dataclasses.replace(data, prepare=same)
    kind = labelled(task)
    old: Any = saved.task
    if TASKS[type(task)].reading_of(task) is not None and old.kind == task.kind:
        own: Any = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
        unsaid = [name for name, value in own.items() if value is None]
        task = dataclasses.replace(task, **{k: getattr(old, k) for k in unsaid})
    if kind is not None and old.kind == task.kind:
        task = kind.as_before(task, old)
    config = dataclasses.replace(config, data=data, task=task)
    return _with_start(config, getattr(old, "decoder_start", None))


def _with_targets(config: RunConfig) -> RunConfig:
    """The config with our names of the matrices that adapters are put on, where it has
    those of the model's family in the hub."""
    if not isinstance(config.peft, Adapters):
        return config
    peft: Any = config.peft
    model = make_model(dataclasses.replace(config, peft=FullTuning()))
    names = [f.name for f in dataclasses.fields(peft) if f.name in TARGETS]
    ours: dict[str, Any] = {n: our_names(model, getattr(peft, n)) for n in names}
    if isinstance(peft, LoRA):
        ours["ranks"] = tuple(
            dataclasses.replace(own, pattern=name)
            for own in peft.ranks
            for name in our_names(model, (own.pattern,))
        )
    return dataclasses.replace(config, peft=dataclasses.replace(peft, **ours))


def _with_model(
    config: RunConfig, weights: Weights, said: Collection[str]
) -> RunConfig:
    model = architecture.merged(config.model, weights.model, weights.path, said)
    tokenizer = weights.tokenizer
    if tokenizer is not None and model.vocab_size == weights.model.vocab_size:
        ids = [tokenizer.special_id(s) for s in TASKS[type(config.task)].specials]
        needed = max([0, *(i + 1 for i in ids)])
        if needed > model.vocab_size:  # the task brings special tokens of its own
            model = dataclasses.replace(model, vocab_size=-(-needed // 128) * 128)
    return _replaced(config, model)


def _with_vocabulary(config: RunConfig, said: Collection[str]) -> RunConfig:
    """The config with room for the ids of its data, where its task's items are those
    and `model.vocab_size` is not said; rounded up, so that devices share them."""
    size = config.model.vocab_size
    usual = size == ModelConfig().vocab_size and "model.vocab_size" not in said
    if not TASKS[type(config.task)].own_vocabulary or not usual:
        return config
    if isinstance(config.init, Checkpoint) or not (corpora := _corpora(config)):
        return config
    needed = -(-corpora[0].tokenizer.vocab_size // 128) * 128
    model = dataclasses.replace(config.model, vocab_size=needed)
    return dataclasses.replace(config, model=model)


def _with_start(config: RunConfig, start: int | None) -> RunConfig:
    """The config with the id that the weights' decoder begins with, if it is read."""
    task = TASKS[type(config.task)].with_weights(config.task, start)
    return dataclasses.replace(config, task=task)


def _replaced(config: RunConfig, model: ModelConfig) -> RunConfig:
    """The config with the model of its weights, which its rows must fit."""
    positions, data = model.positions, config.data
    longest = max(data.seq_len, data.encoder_seq_len or 0)
    if isinstance(positions, Learned) and positions.max_length < longest:
        name = "seq_len" if data.seq_len == longest else "encoder_seq_len"
        raise ValueError(
            f"data.{name}={longest} exceeds the {positions.max_length} positions that "
            "the weights at init.path have; lower it, or set model.positions.kind="
            "'learned' and model.positions.max_length for more, which are untrained"
        )
    return dataclasses.replace(config, model=model)


def _with_tokenizer(
    config: RunConfig, weights: Weights, corpus: bool, said: Collection[str]
) -> RunConfig:
    own, theirs = config.data.tokenizer, weights.tokenizer
    named = any(key.startswith("data.tokenizer.") for key in said)
    given = isinstance(own, TokenizerFile | Bytes)
    if theirs is None and (given or not corpus):
        return config
    if theirs is None:
        raise ValueError(
            f"the weights at init.path={weights.path!r} have no tokenizer.json or "
            f"SentencePiece model beside them, and one of the kind {own.kind!r} would "
            "be learned from the data; give theirs, by data.tokenizer.kind='file' and "
            "data.tokenizer.path. Of a vocab.txt or vocab.json transformers makes a "
            "tokenizer.json: AutoTokenizer.from_pretrained(path).save_pretrained(path)"
        )
    if given:
        chosen = tokenizer_lib.make(own, ())
        if comparison.agree(theirs, chosen, grown=True):
            return config
        difference = comparison.difference(theirs, chosen)
    elif own == weights.learned or (own == BPE() and not named):
        file = weights.tokenizer_file(config.data.directory)
        data = dataclasses.replace(config.data, tokenizer=file)
        return dataclasses.replace(config, data=data)
    else:
        difference = "it would be learned from the data"
    raise ValueError(
        f"config key 'data.tokenizer' is of kind {own.kind!r} and not the tokenizer of "
        f"the weights at init.path={weights.path!r} ({difference}); leave it out"
    )


def _reading(config: RunConfig, weights: Weights | None) -> Any:
    """The task's config with the way to a vector that the weights say."""
    kind = TASKS[type(config.task)]
    if weights is None or kind.reading_of(config.task) is None:
        return config.task
    reading = weights.reading
    if reading is None:
        return config.task
    return kind.with_reading(config.task, reading, config.data)


def _way(config: RunConfig, kind: type[LabelledTask], weights: Weights | None) -> Way:
    """The way to classes of the weights, or of the model's family in transformers, so
    that the model can be exported; else the mean, if texts are told apart, and one
    matrix."""
    init, head = config.init, kind.head.__name__
    own = isinstance(init, Checkpoint) and init.architecture == "checkpoint"
    way = weights.ways.get(head) if weights and own else None
    way = way or way_to_classes(config.model, head)
    return way or kind.way(config.task)


def _corpora(config: RunConfig) -> list[Corpus] | None:
    """The corpora of a run's data; None: not prepared yet."""
    try:
        return [part for _, part in prepare.open_corpora(config.data)]
    except FileNotFoundError:
        return None


def _labels(
    config: RunConfig,
    kind: type[LabelledTask],
    weights: Weights | None,
    corpora: Sequence[Corpus] | None,
) -> tuple[str, ...]:
    """The names of classes, of the weights where all of the corpora are among them.

    (): not known yet.

    Args:
      corpora: None: not prepared yet; (): they are not asked.
    """
    theirs = () if weights is None else weights.labels
    if not corpora:
        return () if corpora is None else theirs
    own = kind.classes(config.task, corpora)
    return theirs if theirs and set(own) <= set(theirs) else own
