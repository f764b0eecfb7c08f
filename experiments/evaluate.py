"""Evaluates a run's checkpoint on a split.

    python -m experiments.evaluate --run=runs/finetune --split=test --workdir=runs/eval

Prints the task's metrics and its report, such as a classification's macro-F1 and
confusion matrix with the classes' names, of the best checkpoint or of `--step`.
"""

from typing import Any

from absl import flags

from experiments import cli
from llmjax.parallel.processes import membership
from llmjax.train import run
from llmjax.train.metrics import evaluation

RUN = flags.DEFINE_string("run", None, "Workdir of the run to evaluate.")
SPLIT = flags.DEFINE_string("split", None, "Default: the run's evaluation split.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default: the best.")


def main() -> dict[str, Any]:
    step, program, params, batches = run.read(RUN.value, SPLIT.value, STEP.value)
    result: dict[str, Any] = evaluation.evaluate(program, params, batches)
    values = evaluation.predictions(program, params, batches)
    report = program.task.report(values, batches.sources)
    words = program.task.describe(report) if report else ""
    if words and membership.rank() == 0:
        print(words)
    result |= report
    split = SPLIT.value or program.config.data.eval_split
    return {"run": RUN.value, "step": step, "split": split, **result}


if __name__ == "__main__":
    cli.launch(main, required=("run",))
