"""Evaluates a run's checkpoint on a split.

    python -m experiments.evaluate --run=runs/finetune --split=test --workdir=runs/eval

Prints the task's metrics and its report, such as a classification's macro-F1 and
confusion matrix with the classes' names, of the best checkpoint or of `--step`. The
model of a task that writes writes a text for each example first; with `--workdir` they
are in its `predictions.jsonl`, by the example's number.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from absl import flags
from etils import epath

from experiments import cli
from experiments.cli import WORKDIR
from llmjax.infer import writing
from llmjax.parallel.processes import membership
from llmjax.tasks.task import Predictions
from llmjax.train import run
from llmjax.train.metrics import evaluation

RUN = flags.DEFINE_string("run", None, "Workdir of the run to evaluate.")
SPLIT = flags.DEFINE_string("split", None, "Default: the run's evaluation split.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default: the best.")


def main() -> dict[str, Any]:
    step, program, params, batches = run.read(RUN.value, SPLIT.value, STEP.value)
    result: dict[str, Any] = evaluation.evaluate(program, params, batches)
    if program.task.writes:
        values = kept(writing.predictions(program, params, batches))
    else:
        values = evaluation.predictions(program, params, batches)
    report = program.task.report(values, batches.sources)
    words = program.task.describe(report) if report else ""
    if words and membership.rank() == 0:
        print(words)
    result |= report
    split = SPLIT.value or program.config.data.eval_split
    return {"run": RUN.value, "step": step, "split": split, **result}


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
    cli.launch(main, required=("run",))
