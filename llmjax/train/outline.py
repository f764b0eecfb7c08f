"""A run in words, before its first step."""

from collections.abc import Sequence
from typing import Any

import jax

from llmjax.config import (
    Checkpoint,
    FullTuning,
    MixturePart,
    PartialTuning,
    PlainLoss,
    RunConfig,
    wording,
)
from llmjax.data.batches.curriculum import Curriculum
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.store.corpus import Corpus
from llmjax.tasks.registry import labelled
from llmjax.train.setup import Batches, Program

Corpora = Sequence[tuple[MixturePart, Corpus]]


def of(program: Program, source: Batches, corpora: Corpora = ()) -> str:
    """A table of a run's parts, with notes on what may be meant otherwise.

    Args:
      program: from `setup.build`.
      source: of the batches.
      corpora: where the batches come from, if they are the config's.
    """
    config = program.config
    rows = {
        "model": _model(program),
        "parameters": _parameters(program),
        "trained": _trained(config),
        "task": _task(config),
        "starts from": _start(config),
        **_data(config, corpora),
        "batch": _batch(config),
        "steps": _steps(config, source),
        "optimizer": _optimizer(config),
        "craft": _craft(config),
        "devices": _devices(program),
    }
    notes = _notes(config, source, corpora)
    return "\n".join([wording.table(rows), *(f"note: {note}" for note in notes)])


def _model(program: Program) -> str:
    cfg = program.config.model
    name = type(program.model).__name__.removeprefix("Adapted")
    return (
        f"{name}, {cfg.architecture.replace('_', '-')}: "
        f"{wording.count(cfg.L, 'layer')}, width {cfg.d_model:,}, "
        f"{wording.count(cfg.num_heads, 'head')}, vocabulary {cfg.vocab_size:,}"
    )


def _parameters(program: Program) -> str:
    trained = _size(program.abstract.params)
    whole = trained + _size(program.abstract.frozen.get("params", {}))
    part = f", {wording.short(trained)} of them trained" if trained < whole else ""
    return wording.short(whole) + part


def _trained(config: RunConfig) -> str:
    """What of the model is trained, unless it is all; "" then."""
    peft: Any = config.peft
    if isinstance(peft, FullTuning):
        return ""
    if isinstance(peft, PartialTuning):
        return f"a head of classes{''.join(f', {name}' for name in peft.train)}"
    places = getattr(peft, "targets", None) or (*peft.outputs, *peft.inputs)
    ends = dict.fromkeys(name.rpartition("/")[2] for name in places)
    rank = f" of rank {peft.rank}" if hasattr(peft, "rank") else ""
    return f"{peft.kind} adapters{rank} beside {', '.join(ends)}"


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _task(config: RunConfig) -> str:
    labels: tuple[str, ...] = getattr(config.task, "labels", ())
    shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
    classes = f", {wording.count(len(labels), 'class', 'classes')}: {shown}"
    return config.task.kind + (classes if labels else "")


def _start(config: RunConfig) -> str:
    if isinstance(config.init, Checkpoint):
        return f"the weights of {config.init.path}"
    return f"random weights, train.seed {config.train.seed}"


def _data(config: RunConfig, corpora: Corpora) -> dict[str, str]:
    """Documents and tokens of each split, by corpus."""
    field = getattr(config.task, "text_field", "text")
    splits = dict.fromkeys((config.data.train_split, config.data.eval_split))
    rows = {}
    for k, (_, corpus) in enumerate(corpora):
        documents = corpus.manifest["dataset"]["documents"]
        parts = []
        for split in splits:
            if split in documents:
                text = f"{split} {wording.count(documents[split], 'document')}"
                count = _tokens(corpus, split, field)
                tokens = f", {wording.short(count)} tokens" if count else ""
                parts.append(text + tokens)
        name = corpus.manifest["corpus"]
        rows[f"data {k + 1}" if len(corpora) > 1 else "data"] = (
            f"{name}: {'; '.join(parts)}"
        )
    return rows


def _tokens(corpus: Corpus, split: str, field: str) -> int:
    """Tokens of a split's documents; 0 for records, which are not counted."""
    files = corpus.manifest["token_files"]
    account = files.get(f"{field}/{split}") or files.get(f"text/{split}")
    return account["tokens"] if account else 0


def _batch(config: RunConfig) -> str:
    shapes = Curriculum(config.data).shapes()
    texts = [f"{wording.count(B, 'row')} × {T:,} tokens" for B, T in shapes]
    text = ", then ".join(texts)
    if len(shapes) == 1:
        text += f" = {shapes[0][0] * shapes[0][1]:,}"
    k = config.layout.microbatches
    return text + (f", in {k} microbatches" if k > 1 else "")


def _steps(config: RunConfig, source: Batches) -> str:
    train = config.train
    text = f"{train.steps:,}"
    if isinstance(source, Pipeline):
        epochs = source.epochs(train.steps)
        if len(epochs) == 1:
            (count,) = epochs.values()
            text += f" = {count:.3g} {'epoch' if count == 1 else 'epochs'}"
        else:
            each = (f"{name} {count:.3g}" for name, count in epochs.items())
            text += f"; epochs: {', '.join(each)}"
    return (
        f"{text}; evaluated every {train.eval_every:,}, saved every "
        f"{train.checkpoint_every:,}"
    )


def _optimizer(config: RunConfig) -> str:
    optimizer, schedule = config.optimizer, config.optimizer.schedule
    warmup = schedule.warmup_steps
    text = f"{optimizer.algorithm.kind}, learning rate {optimizer.learning_rate:g}"
    if warmup:
        text += f" after {wording.count(warmup, 'step')} of warm-up"
    if (final := getattr(schedule, "final", None)) is not None:
        form = "cosine" if schedule.kind == "warmup_cosine" else "line"
        text += f", then a {form} to {optimizer.learning_rate * final:g}"
    return text


def _craft(config: RunConfig) -> str:
    """What is done beside the task's loss and the algorithm; "": nothing."""
    loss, optimizer, model = config.craft.loss, config.optimizer, config.model
    parts = {
        "loss": "" if loss == PlainLoss() else loss.kind,
        "mixout": config.craft.mixout,
        "layer_decay": optimizer.layer_decay if optimizer.layer_decay < 1 else 0,
        "start_decay": optimizer.start_decay,
        "unfreeze_every": optimizer.unfreeze_every,
        "layer_drop": model.layer_drop,
        "augment": ", ".join(config.data.augment.rates),
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items() if value)


def _devices(program: Program) -> str:
    devices = program.mesh.devices.flat
    text = f"{len(devices)} × {devices[0].device_kind}"
    axes = {name: n for name, n in program.mesh.shape.items() if n > 1}
    if axes:
        text += f", as {', '.join(f'{name} {n}' for name, n in axes.items())}"
    if jax.process_count() > 1:
        text += f", in {jax.process_count()} processes"
    return text


def _notes(config: RunConfig, source: Batches, corpora: Corpora) -> list[str]:
    """Sizes that a small corpus makes no sense of."""
    data, notes = config.data, []
    split = data.train_split
    field = getattr(config.task, "text_field", "text")
    tokens = sum(_tokens(corpus, split, field) for _, corpus in corpora)
    if 0 < tokens < data.seq_len:
        notes.append(
            f"data.seq_len={data.seq_len:,} is more than all {tokens:,} tokens of the "
            f"split {split!r}; a smaller one wastes less"
        )
    if isinstance(source, Pipeline) and corpora:
        rows: int = source.rows_per_epoch
        if data.batch_size > rows:
            notes.append(
                f"data.batch_size={data.batch_size:,} is more than the "
                f"{wording.count(rows, 'row')} of the split {split!r}: each step "
                "repeats them"
            )
        if cut := source.cut:
            notes.append(
                f"longer than data.seq_len={data.seq_len:,}, so that only the start is "
                f"read: {wording.count(cut, 'text')} of the split {split!r}"
            )
    kind, opened = labelled(config.task), [corpus for _, corpus in corpora]
    if kind and (names := kind.unseen(config.task, opened, split)):
        notes.append(
            f"no text of the split {split!r} has {', '.join(map(repr, names))}: "
            f"nothing is learned of {'it' if len(names) == 1 else 'them'}"
        )
    return notes
