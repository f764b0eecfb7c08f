r"""Teaches a small model sums by rewards alone, after it has half learned them.

    python -m experiments.reinforce --workdir=runs/reinforce [--quick]

A Transformer reads sums of two operands whose results are more often one too high than
right. Then it only sees the left sides, writes answers, and is told which are exact: by
GRPO and by Dr. GRPO, `--updates` each. Prints, of sums that neither part has shown, the
share that is right before and after, and how long the answers are. What a killed
command has done stays, and the same command goes on to the same bits.
`--quick` shrinks everything to a toy that shows the path, not the result.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from experiments import cli
from llmjax.config import (
    GRPO,
    Bytes,
    CausalLM,
    Checkpoint,
    DataConfig,
    DrGRPO,
    ModelConfig,
    OptimizerConfig,
    PolicyLoss,
    Reinforcement,
    RunConfig,
    TrainConfig,
    WarmupCosine,
    wording,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.store.tokens import from_documents
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.regimes import reinforcement
from llmjax.tasks.registry import make_task
from llmjax.train import run
from llmjax.train.metrics import writers

QUICK = flags.DEFINE_bool("quick", False, "A toy size, for tests.")
UPDATES = flags.DEFINE_integer("updates", 60, "Updates by rewards.", lower_bound=1)

LOSSES: tuple[PolicyLoss, ...] = (GRPO(), DrGRPO())
OPERANDS = 20  # from 0 on
HELD_OUT = 80  # sums that are only asked at the end
ERRORS = (0, 0, 1, 1, 1)  # of the results that are read of each sum
LONGEST = 5  # tokens of an answer
GROUP = 8  # answers to each sum


def main() -> dict[str, Any]:
    folder = epath.Path(cli.WORKDIR.value or "").expanduser()
    learned, held_out = sums()
    tokenizer = tokenizer_lib.make(Bytes(), ())
    begin(folder / "start", learned, tokenizer)
    rows = {}
    for loss in LOSSES:
        done = reinforcement.run(
            config(loss, folder / "start"),
            folder / loss.kind,
            learned,
            [exact],
            tokenizer=tokenizer,
            held_out=held_out,
        )
        cli.stop_unless_finished(done.result)
        rows[loss.kind] = told(folder / loss.kind)
    return {"sums": len(learned), "held_out": len(held_out), "losses": rows}


def describe(result: Mapping[str, Any]) -> str:
    """The result in words."""
    lines = {
        kind: f"{row['before']:.1%} of {result['held_out']} new sums are right before, "
        f"{row['after']:.1%} after {row['updates']} updates; answers of "
        f"{row['tokens_before']:.2f} tokens, then {row['tokens_after']:.2f}"
        for kind, row in result["losses"].items()
    }
    return wording.table(lines)


def sums() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """All sums of two operands in a random order: those to learn, and the others."""
    size = 6 if QUICK.value else OPERANDS
    pairs = [(a, b) for a in range(size) for b in range(size)]
    order = np.random.default_rng(0).permutation(len(pairs))
    rows = [
        {"prompt": f"{a}+{b}=", "answer": str(a + b)}
        for a, b in (pairs[k] for k in order)
    ]
    count = len(rows) // 8 if QUICK.value else HELD_OUT
    return rows[count:], rows[:count]


def exact(prompt: str, answer: str, row: reinforcement.Row) -> float:
    """1 for the right result, else 0."""
    return float(answer == row["answer"])


def begin(folder: epath.Path, rows: Sequence[Any], tokenizer: Tokenizer) -> None:
    """Learns from sums with results, some of them wrong."""
    steps = 2 if QUICK.value else 800
    settings = dataclasses.replace(
        _base(steps, 64, learning_rate=3e-3),
        task=CausalLM(),
        train=TrainConfig(steps=steps, checkpoint_every=steps, eval_every=steps),
    )
    texts = [
        tokenizer.encode(f"{row['prompt']}{int(row['answer']) + error}")
        for row in rows
        for error in ERRORS
    ]
    task = make_task(settings, tokenizer)
    source = from_documents(texts, token_bytes=tokenizer.token_bytes)
    batches = Pipeline(source, task.features, settings.data, task.length)
    done = run.run(settings, folder, task=task, source=batches)
    cli.stop_unless_finished(done.result)


def config(loss: PolicyLoss, start: epath.Path) -> RunConfig:
    """The run that goes on from `start` by rewards."""
    updates = 2 if QUICK.value else UPDATES.value
    return dataclasses.replace(
        _base(updates, GROUP * (2 if QUICK.value else 16), learning_rate=1e-3),
        task=Reinforcement(loss, group=GROUP, max_new_tokens=LONGEST),
        init=Checkpoint(str(start)),
        train=TrainConfig(
            steps=updates,
            log_every=1,
            eval_every=updates,
            checkpoint_every=max(1, updates // 6),
            best_metric="reward",
            best_mode="max",
        ),
    )


def _base(steps: int, batch_size: int, learning_rate: float) -> RunConfig:
    """What both parts share."""
    width = 16 if QUICK.value else 64
    return RunConfig(
        model=ModelConfig(
            vocab_size=384, d_model=width, d_ff=2 * width, num_layers=2, num_heads=2
        ),
        data=DataConfig(
            tokenizer=Bytes(), batch_size=batch_size, seq_len=16, packing="pad"
        ),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate,
            weight_decay=0.0,
            schedule=WarmupCosine(warmup_steps=max(1, steps // 20)),
        ),
    )


def told(folder: epath.Path) -> dict[str, Any]:
    """The metrics of a run by rewards, in words."""
    rows = [row for row in writers.read(folder) if "eval/reward" in row]
    before, after = rows[0], rows[-1]
    return {
        "updates": after["step"],
        "before": before["eval/reward"],
        "after": after["eval/reward"],
        "tokens_before": before["eval/tokens"],
        "tokens_after": after["eval/tokens"],
    }


if __name__ == "__main__":
    cli.launch(main, ("workdir",), describe)
