"""A classifier after a few texts of each class, by SetFit or by plain fine-tuning."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cli
from llmjax.config import (
    AdamW,
    Checkpoint,
    CosineRegression,
    DataConfig,
    LinearHead,
    ModelConfig,
    Number,
    OptimizerConfig,
    PrepareConfig,
    RecordField,
    RunConfig,
    SequenceClassification,
    Text,
    TextEmbedding,
    TrainConfig,
    wording,
)
from llmjax.config import (
    Linear as LinearSchedule,
)
from llmjax.data.files import finding, readers
from llmjax.data.prepare import labelled as columns
from llmjax.train import initial, run
from llmjax.train.checkpoints import weights

PAIRS_RATE, PLAIN_RATE, HEAD_RATE = 2e-5, 5e-5, 1e-2
HEAD_STEPS = 200
HEAD_ROWS, SEGMENTS = 4, 32  # of an update, and the most texts of a row
LONGEST = 128  # tokens at which texts are cut
CLASSIFIER = "classifier"  # folder of a workdir


class Labelled(NamedTuple):
    """A text and its class."""

    text: str
    label: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a few-shot classifier is a function of, beside its texts.

    Attributes:
      base: model of sentence vectors, as `init.path`.
      rounds: pairs of either kind that each text begins.
      seed: of the pairs, the order of batches and new weights.
      seq_len: tokens at which texts are cut.
      batch_size: pairs, or of plain fine-tuning texts, of an update.
      head_steps: updates of the head.
    """

    base: str
    rounds: int = 20
    seed: int = 0
    seq_len: int = LONGEST
    batch_size: int = 16
    head_steps: int = HEAD_STEPS


def few_shot(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    workdir: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Trains a classifier by pairs, then its head; WORKDIR/classifier is its run.

    Returns:
      `texts`, `pairs`, and of `test`, where there are some, the report's metrics.

    Raises:
      ValueError: a class of one text alone, or only one class.
    """
    data = write_texts(train, test, workdir)
    rng = np.random.default_rng(settings.seed)
    pairs = pairs_of(train, settings.rounds, rng)
    write_rows(workdir / "pairs.jsonl", pairs)
    steps = max(1, len(pairs) // settings.batch_size)
    body_run = body_config(settings, workdir, steps, room_of(train, settings))
    body, _ = fit(body_run, workdir / "body")
    config = head_config(settings, data, workdir, bool(test))
    task = SequenceClassification(pooling=body.task.pooling, head=LinearHead())
    _, result = fit(dataclasses.replace(config, task=task), workdir / CLASSIFIER)
    return {"texts": len(train), "pairs": len(pairs), **tested(result, bool(test))}


def plain(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    workdir: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Fine-tunes all weights on the classes alone, as often as `few_shot` on pairs."""
    source = write_texts(train, test, workdir)
    steps = max(1, 2 * settings.rounds * len(train) // settings.batch_size)
    data = data_of(settings, source, workdir, "test" if test else "train")
    config = RunConfig(
        model=ModelConfig(architecture="encoder"),
        task=SequenceClassification(pooling="mean", head=LinearHead()),
        data=dataclasses.replace(data, seq_len=room_of([*train, *test], settings)),
        init=Checkpoint(settings.base),
        optimizer=optimizer_of(PLAIN_RATE, steps),
        train=train_of(settings.seed, steps),
    )
    _, result = fit(config, workdir / CLASSIFIER)
    return {"texts": len(train), "updates": steps, **tested(result, bool(test))}


# --- texts and pairs -----------------------------------------------------------------


def check_classes(train: Sequence[Labelled], test: Sequence[Labelled]) -> None:
    """Raises ValueError for a class of the test that there is nothing to learn of."""
    known = {row.label for row in train}
    for row in test:
        if row.label not in known:
            raise ValueError(
                f"--test has the class {row.label!r}, and no text of --train; known: "
                f"{', '.join(sorted(known))}; give it texts there, or take it out here"
            )


def texts_of(source: str, flag: str) -> list[Labelled]:
    """The texts of a file that have a class.

    Raises:
      ValueError: no such file, or columns that can't be told.
    """
    if not finding.exists(source):
        raise ValueError(f"{flag}={source} is not there: {finding.missing(source)}")
    prepare = columns.with_columns(DataConfig(source=source), said=False).prepare
    texts = []
    for file_slice in finding.find(source).slices:
        for text, label in readers.read(file_slice, prepare.text, prepare.label):
            if label is not None and text.strip():
                texts.append(Labelled(text, label))
    if not texts:
        raise ValueError(f"{flag}={source} has no text with a class")
    return texts


def by_class(texts: Sequence[Labelled]) -> dict[str, list[int]]:
    """The places of each class's texts; classes in the order of their names."""
    places = collections.defaultdict(list)
    for k, row in enumerate(texts):
        places[row.label].append(k)
    return dict(sorted(places.items()))


def drawn(
    texts: Sequence[Labelled], shots: int, rng: np.random.Generator
) -> list[Labelled]:
    """So many texts of each class, none of them twice.

    Raises:
      ValueError: a class has fewer.
    """
    chosen: list[Labelled] = []
    for name, places in by_class(texts).items():
        different = [*{texts[k].text: k for k in places}.values()]
        if len(different) < shots:
            raise ValueError(
                f"the class {name!r} has {wording.count(len(different), 'text')} that "
                f"differ and are not held out; lower --shots={shots}, or take it out"
            )
        chosen += [texts[k] for k in rng.choice(different, shots, replace=False)]
    return chosen


def pairs_of(
    texts: Sequence[Labelled], rounds: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Pairs of texts, with 1 for two of a class and 0 for others (section 3.1).

    In each round each text begins one pair of either kind, as in the authors' code; the
    other text is drawn from those of its class but itself, or from those of the other
    classes. Over all rounds of a class of n texts these are the paper's R = rounds * n
    triplets of either kind.

    Raises:
      ValueError: a class whose texts are all equal, or only one class.
    """
    classes = by_class(texts)
    if len(classes) < 2:
        raise ValueError(
            f"all texts are of the class {next(iter(classes), '')!r}; give at least two"
        )
    for name, places in classes.items():
        if len({texts[k].text for k in places}) < 2:
            raise ValueError(
                f"the class {name!r} has one text alone, which makes no pair; give at "
                "least two that differ"
            )
    labels = np.array([row.label for row in texts])
    words = np.array([row.text for row in texts])
    alike = [np.flatnonzero((labels == a) & (words != t)) for t, a in texts]
    others = [np.flatnonzero(labels != row.label) for row in texts]
    pairs = []
    for _ in range(rounds):
        for k, row in enumerate(texts):
            for score, others_k in ((1.0, alike[k]), (0.0, others[k])):
                second = texts[int(rng.choice(others_k))].text
                pairs.append({"anchor": row.text, "positive": second, "score": score})
    return pairs


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a .jsonl, unless it is what it would become."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text("utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def write_texts(
    train: Sequence[Labelled], test: Sequence[Labelled], workdir: Path
) -> Path:
    """The folder of both splits."""
    folder = workdir / "texts"
    for name, texts in (("train", train), ("test", test)):
        if texts:
            write_rows(folder / f"{name}.jsonl", [row._asdict() for row in texts])
    return folder


# --- runs ----------------------------------------------------------------------------


def fit(config: RunConfig, workdir: Path) -> tuple[Any, dict[str, Any]]:
    """Trains a run, or goes on with it; gives its completed config and its result."""
    config = initial.complete(config, workdir)
    initial.prepare_local(config.data, workdir)
    done = run.run(config, workdir, progress=False)
    cli.stop_unless_finished(done.result)
    return done.program.config, done.result


def longest_of(base: str) -> int:
    """Tokens of a text that are read: 128, or as many as the base has positions for."""
    positions = weights.describe(Checkpoint(base)).model.positions
    return min(LONGEST, getattr(positions, "max_length", None) or LONGEST)


def room_of(texts: Sequence[Labelled], settings: Settings) -> int:
    """Tokens of the longest text with the specials around it, a multiple of 8, and
    `seq_len` at most: shorter rows are learned from faster."""
    tokenizer = weights.describe(Checkpoint(settings.base)).tokenizer
    if tokenizer is None:  # `initial.complete` says so
        return settings.seq_len
    longest = max(map(len, tokenizer.encode_batch([row.text for row in texts])))
    needed = longest + tokenizer.num_specials
    return min(settings.seq_len, -(-needed // 8) * 8)


def body_config(settings: Settings, workdir: Path, steps: int, room: int) -> RunConfig:
    """The run that learns pairs by the cosine of their vectors."""
    fields = (
        RecordField("anchor", type=Text()),
        RecordField("positive", type=Text()),
        RecordField("score", type=Number()),
    )
    data = data_of(settings, workdir / "pairs.jsonl", workdir, "train")
    prepare = PrepareConfig(fields, validation=0.0, test=0.0)
    return RunConfig(
        model=ModelConfig(architecture="encoder"),
        task=TextEmbedding(CosineRegression()),
        data=dataclasses.replace(data, prepare=prepare, seq_len=room),
        init=Checkpoint(settings.base),
        optimizer=optimizer_of(PAIRS_RATE, steps),
        train=train_of(settings.seed, steps, eval_batches=1),
    )


def head_config(
    settings: Settings, source: Path, workdir: Path, tested: bool
) -> RunConfig:
    """The run that learns classes by a head alone, from a few rows that are full."""
    data = data_of(settings, source, workdir, "test" if tested else "train")
    return RunConfig(
        model=ModelConfig(architecture="encoder"),
        data=dataclasses.replace(
            data,
            packing="first_fit",
            max_segments=SEGMENTS,
            batch_size=shared(HEAD_ROWS),
        ),
        init=Checkpoint(str(workdir / "body")),
        optimizer=optimizer_of(HEAD_RATE, settings.head_steps, ("transformer/*",)),
        train=train_of(settings.seed, settings.head_steps),
    )


def shared(rows: int) -> int:
    """So many rows, or a few more, that all devices have as many."""
    return -(-rows // jax.device_count()) * jax.device_count()


def data_of(
    settings: Settings, source: Path, workdir: Path, eval_split: str
) -> DataConfig:
    """Texts of a file or a folder, none of them held out."""
    return DataConfig(
        source=str(source),
        directory=str(workdir / "cache"),
        prepare=PrepareConfig(label="label", validation=0.0, test=0.0),
        eval_split=eval_split,
        packing="pad",
        batch_size=shared(settings.batch_size),
        seq_len=settings.seq_len,
        shuffle_seed=settings.seed,
    )


def optimizer_of(
    rate: float, steps: int, freeze: tuple[str, ...] = ()
) -> OptimizerConfig:
    """AdamW with a linear schedule; a tenth of the updates warm up."""
    return OptimizerConfig(
        algorithm=AdamW(b2=0.999),
        schedule=LinearSchedule(warmup_steps=steps // 10),
        learning_rate=rate,
        weight_decay=0.01,
        freeze=freeze,
    )


def train_of(seed: int, steps: int, eval_batches: int | None = None) -> TrainConfig:
    """A run that is evaluated and kept at its end."""
    return TrainConfig(
        seed=seed,
        steps=steps,
        eval_every=steps,
        eval_batches=eval_batches,
        checkpoint_every=steps,
    )


def tested(result: Mapping[str, Any], held_out: bool) -> dict[str, Any]:
    """Metrics of the report, where it is of texts that were held out."""
    names = ("accuracy", "macro_f1") if held_out else ()
    return {name: float(result["report"][name]) for name in names}
