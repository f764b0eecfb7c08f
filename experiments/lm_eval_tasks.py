"""A language model asked the tasks of lm-eval, for `experiments.evaluate`."""

import dataclasses
import difflib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from experiments.language_models import Source
from llmjax.infer.scoring import Scorer

UNBOUNDED = 2048  # tokens, where a model's files name no longest; lm-eval's own
ENDINGS = (".yaml", ".yml")
SEED = 1234  # of the examples; lm-eval's own


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of a model.

    Attributes:
      names: of tasks that lm-eval has, or .yaml files.
      batch_size: texts of a batch on each device.
      max_length: tokens that the model reads; None: all that it can.
      examples: that are shown before each question; None: as the task has it.
      limit: questions of a task; None: all.
      chat: whether the chat template writes the questions.
    """

    names: Sequence[str]
    batch_size: int
    max_length: int | None = None
    examples: int | None = None
    limit: int | None = None
    chat: bool = False


def evaluate(source: Source, asked: Asked, workdir: str | None) -> dict[str, Any]:
    """The metrics of each task; questions and answers go to `samples.jsonl`.

    Args:
      source: the model.
      asked: the tasks.
      workdir: of the samples; None: they are not kept.

    Raises:
      ValueError: lm-eval is not installed, there is no such task, or it fails.
    """
    tasks = load(asked.names, asked.examples)
    if asked.chat and not source.tokenizer.chat_templates:
        raise ValueError(
            "--chat: the model's tokenizer has no chat template; leave it out"
        )
    model = harness_model(source, asked)
    run = _library("lm_eval.evaluator").evaluate
    results = run(
        model,
        tasks,
        limit=asked.limit,
        bootstrap_iters=1000,
        log_samples=True,
        apply_chat_template=asked.chat,
        fewshot_as_multiturn=asked.chat,
    )
    if workdir is not None:
        write_samples(workdir, results["samples"])
    cut = model.scorer.cut + model.cut
    table = _library("lm_eval.utils").make_table(results)
    return {
        "tasks": {
            name: {k: v for k, v in values.items() if k != "alias"}
            for name, values in results["results"].items()
        },
        "questions": {k: v["effective"] for k, v in results["n-samples"].items()},
        "max_length": model.scorer.max_length,
        "cut": cut,
        "table": table,
    }


def load(names: Sequence[str], examples: int | None = None) -> Mapping[str, Any]:
    """lm-eval's tasks, with so many examples before each question.

    Raises:
      ValueError: there is none of a name, or it can't be loaded, as without a network.
    """
    files = {name: Path(name).expanduser() for name in names if _is_file(name)}
    for name, file in files.items():
        if not file.is_file():
            raise ValueError(f"--lm_eval={name} is no file; give the .yaml of a task")
    known = len(files) < len(names)  # the index of lm-eval's own takes some seconds
    manager = _library("lm_eval.tasks").TaskManager(include_defaults=known)
    for name in names:
        if name not in files and name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(
                f"--lm_eval={name} is no task of lm-eval's; {meant}`python -m lm_eval "
                "ls tasks` lists all, and a .yaml file may be one"
            )
    try:
        tasks: Mapping[str, Any] = manager.load([str(files.get(n, n)) for n in names])
    except Exception as e:  # of any kind: of a user's file, or of a network's
        reason = f"{type(e).__name__}: {e}".partition("\n")[0]
        raise ValueError(
            f"--lm_eval={','.join(names)} can't be loaded: {reason}"
        ) from e
    for task in tasks["tasks"].values():
        own = task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=own or 0)
        if examples is not None:
            task.set_config(key="num_fewshot", value=examples)
        task.set_fewshot_seed(seed=SEED)
    return tasks


def _is_file(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def harness_model(source: Source, asked: Asked) -> Any:
    """The model as lm-eval asks it."""
    length = asked.max_length or source.longest or UNBOUNDED
    scorer = Scorer(
        source.model, source.params, batch_size=asked.batch_size, max_length=length
    )
    return _library("llmjax.infer.harness").HarnessModel(
        scorer,
        source.model,
        source.params,
        source.tokenizer,
        begin=source.with_beginning,
        stop_tokens=source.stop_tokens,
        pad_id=source.pad_id,
        batch_size=asked.batch_size,
    )


def write_samples(workdir: str, samples: Mapping[str, Sequence[Any]]) -> None:
    """Writes the answers to each question: a line each, by task and row."""
    folder = epath.Path(workdir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "samples.jsonl.part"
    with part.open("w") as file:
        for name, rows in samples.items():
            for row in rows:
                line = {"task": name, **row}
                file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    part.replace(folder / "samples.jsonl")


def describe(result: Mapping[str, Any]) -> str:
    """The table of lm-eval's."""
    lines = [result["table"].rstrip()]
    if result["cut"]:
        lines.append(
            f"{result['cut']:,} texts longer than the {result['max_length']:,} tokens "
            "that are read: their beginnings were left out"
        )
    return "\n".join(lines)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise ValueError(
            f"--lm_eval asks lm-eval's tasks, and {e.name!r} is not installed; pip "
            "install 'llmjax[eval]'"
        ) from e
