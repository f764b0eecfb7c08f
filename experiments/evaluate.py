"""Evaluates a run's checkpoint on a split, or a language model on lm-eval's tasks.

    python -m experiments.evaluate --run=runs/finetune --split=test --workdir=runs/eval
    python -m experiments.evaluate --run=path/to/hub/folder --lm_eval=facts.yaml

Prints the task's metrics and its report, such as a classification's macro-F1 and
confusion matrix with the classes' names, of the best checkpoint or of `--step`. The
model of a task that writes writes a text for each example first; with `--workdir` they
are in its `predictions.jsonl`, by the example's number.

With `--lm_eval` the model, a run's or that of a folder of the hub, is asked the tasks
of lm-eval (extra `eval`), by name or in a .yaml file. Contexts and continuations are
cut into tokens as by lm-eval's own `hf`. A name's rows come from the network.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import flags
from etils import epath

from experiments import cli, language_models, lm_eval_tasks, words
from experiments.cli import WORKDIR
from llmjax.infer import writing
from llmjax.parallel.processes import membership
from llmjax.tasks.task import Predictions
from llmjax.train import run
from llmjax.train.metrics import evaluation

RUN = flags.DEFINE_string("run", None, "Workdir of the run to evaluate.")
SPLIT = flags.DEFINE_string("split", None, "Default: the run's evaluation split.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default: the best.")
LM_EVAL = flags.DEFINE_list("lm_eval", [], "Tasks of lm-eval, or their .yaml files.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 8, "Texts of a batch on each device, of --lm_eval.", lower_bound=1
)
MAX_LENGTH = flags.DEFINE_integer(
    "max_length", None, "Tokens that are read, of --lm_eval; all.", lower_bound=1
)
EXAMPLES = flags.DEFINE_integer(
    "examples", None, "Shown before each question of --lm_eval.", lower_bound=0
)
LIMIT = flags.DEFINE_integer(
    "limit", None, "Questions of each task of --lm_eval.", lower_bound=1
)
CHAT = flags.DEFINE_bool("chat", False, "The chat template writes them; of --lm_eval.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Agree to download a package.")


def main() -> dict[str, Any]:
    if LM_EVAL.value:
        return asked()
    step, program, params, batches = run.read(RUN.value, SPLIT.value, STEP.value)
    result: dict[str, Any] = evaluation.evaluate(program, params, batches)
    if program.task.writes:
        values = kept(writing.predictions(program, params, batches))
    else:
        values = evaluation.predictions(program, params, batches)
    report = program.task.report(values, batches.sources)
    said = program.task.describe(report) if report else ""
    if said and membership.rank() == 0:
        print(said)
    result |= report
    split = SPLIT.value or program.config.data.eval_split
    return {"run": RUN.value, "step": step, "split": split, **result}


def asked() -> dict[str, Any]:
    """The answers to lm-eval's tasks.

    Raises:
      ValueError: a split is named, which a task has of its own.
    """
    if SPLIT.value is not None:
        raise ValueError(
            f"--split={SPLIT.value} is of a run's data, and tasks of --lm_eval have "
            "splits of their own; leave it out"
        )
    source = language_models.open_source(
        RUN.value or "", STEP.value, download=DOWNLOAD.value
    )
    tasks = lm_eval_tasks.Asked(
        names=LM_EVAL.value,
        batch_size=BATCH_SIZE.value,
        max_length=MAX_LENGTH.value,
        examples=EXAMPLES.value,
        limit=LIMIT.value,
        chat=CHAT.value,
    )
    result = lm_eval_tasks.evaluate(source, tasks, WORKDIR.value)
    return {"run": RUN.value, "step": source.step, **result}


def describe(result: Mapping[str, Any]) -> str:
    """The result in words."""
    return lm_eval_tasks.describe(result) if LM_EVAL.value else words.of(result)


def kept(values: Iterable[Predictions]) -> Iterator[Predictions]:
    """The predictions, each also a line of `predictions.jsonl` in the workdir."""
    if WORKDIR.value is None:
        yield from values
        return
    folder = epath.Path(WORKDIR.value).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "predictions.jsonl.part"
    with part.open("w") as file:
        for some in values:
            for number, text in zip(some.ids.tolist(), some.values, strict=True):
                line = {"example": number, "prediction": text}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield some
    part.replace(folder / "predictions.jsonl")


if __name__ == "__main__":
    cli.launch(main, ("run",), describe)
