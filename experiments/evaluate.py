"""Evaluates a run's checkpoint on a split.

    python -m experiments.evaluate --run=runs/finetune --split=test --workdir=runs/eval

Prints the task's metrics; of a classification also macro-F1 and the confusion matrix.
"""

from typing import Any

from absl import flags

from experiments import cli
from llmjax.config import SequenceClassification
from llmjax.train import evaluation, run

RUN = flags.DEFINE_string("run", None, "Workdir of the run to evaluate.")
SPLIT = flags.DEFINE_string("split", None, "Default: the run's evaluation split.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default: the best.")


def main() -> dict[str, Any]:
    program, params, batches = run.load(RUN.value, SPLIT.value, STEP.value)
    result: dict[str, Any] = evaluation.evaluate(program, params, batches)
    if isinstance(program.config.task, SequenceClassification):
        predicted, right = evaluation.predictions(program, params, batches)
        result |= evaluation.classification_report(predicted, right)
    return {"run": RUN.value, "split": SPLIT.value, **result}


if __name__ == "__main__":
    cli.launch(main, required=("run",))
