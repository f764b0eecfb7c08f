r"""Pretrains a model.

    python -m experiments.pretrain --config=configs/pretrain/python_docs.py \
        --workdir=runs/pretrain [--config.train.steps=100] [--profile=10:12]

Local files are prepared first, where they are not. The same command again continues
from the last checkpoint, and with a larger --config.train.steps beyond the end. SIGTERM
saves and ends with code 143. Writes `config.json`, `metrics.jsonl`, `checkpoints/`,
`tokenizer/` and `result.json` into the workdir, and names the commands that go on.
"""

from typing import Any

from absl import flags

from experiments import cli, following, words
from llmjax.infer import writing
from llmjax.train import initial, run
from llmjax.train.optimizers import optimizers

PROFILE = flags.DEFINE_string(
    "profile", None, "Steps to trace into <workdir>/profile, as start:stop."
)


def main() -> dict[str, Any]:
    workdir = cli.WORKDIR.value or ""
    config = initial.complete(cli.config(), workdir, said=cli.said())
    optimizers.check_length(config.optimizer, config.train.steps)
    initial.prepare_local(config.data, workdir)
    done = run.run(
        config,
        workdir,
        written=writing.predictions,
        profile=profile(),
        said=cli.said(),
    )
    if done.result["finished"]:
        done.result["next"] = following.commands(done.program.config, workdir)
    return done.result


def profile() -> tuple[int, int] | None:
    """The first and the last step of --profile.

    Raises:
      ValueError: not two numbers, or the second is less than the first.
    """
    if PROFILE.value is None:
        return None
    parts = PROFILE.value.split(":")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise ValueError(f"--profile={PROFILE.value}; accepted: start:stop, as 10:12")
    start, stop = map(int, parts)
    if start > stop:
        raise ValueError(f"--profile={PROFILE.value} ends before it starts")
    return start, stop


if __name__ == "__main__":
    cli.launch(main, ("config", "workdir"), words.training)
