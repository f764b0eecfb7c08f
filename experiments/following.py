"""The commands that one may go on with after a run."""

import contextlib
import shlex
import sys

from etils import epath

from experiments.usage import MODULE
from llmjax.config import RunConfig
from llmjax.hub import forms
from llmjax.infer.generate import generates
from llmjax.tasks.registry import TASKS, make_model
from llmjax.train.checkpoints import weights


def commands(config: RunConfig, workdir: str) -> list[str]:
    """A command for each that can be done with the model of a run that ended.

    Args:
      config: of the run.
      workdir: of the run.
    """
    start = vars(sys.modules["__main__"]).get("COMMAND", MODULE)
    run, model = shlex.quote(workdir), make_model(config)
    lines = [f"evaluate --run={run}{_test_split(config, workdir)}"]
    if TASKS[type(config.task)].inputs:
        output = shlex.quote(_free(f"{workdir.rstrip('/')}_predictions", ".jsonl"))
        lines.append(f"predict --run={run} --input=FILE --output={output}")
    if generates(model):
        lines.append(f"generate --run={run} --prompt=TEXT")
    if forms.exportable(model):
        target = shlex.quote(_free(f"{workdir.rstrip('/')}_model"))
        lines.append(f"convert --source={run} --target={target}")
    return [f"{start}{line}" for line in lines]


def _free(stem: str, suffix: str = "") -> str:
    """The first of stem, stem_2, stem_3, … at which there is nothing."""
    names = (stem, *(f"{stem}_{k}" for k in range(2, 1000)))
    free = (n for n in names if not epath.Path(n + suffix).expanduser().exists())
    return next(free, stem) + suffix


def _test_split(config: RunConfig, workdir: str) -> str:
    """The flag of the split "test", where each corpus has it."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        corpora = weights.open_corpora(workdir, config.data)
        if all("test" in c.manifest["dataset"]["documents"] for _, c in corpora):
            return " --split=test"
    return ""
