"""Where metrics go: JSON lines, TensorBoard, Weights & Biases."""

import json
import os
import statistics
from typing import Any, Protocol, runtime_checkable

from etils import epath

from llmjax.config import RunConfig, to_dict

METRICS_FILE = "metrics.jsonl"


@runtime_checkable
class Writer(Protocol):
    """Takes scalars by step."""

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds one row."""

    def close(self) -> None:
        """Nothing more will come."""


class JsonLines:
    """`<workdir>/metrics.jsonl`: one object per row, `step` first."""

    def __init__(self, workdir: epath.Path, resumed_step: int):
        """Drops the rows after `resumed_step` (0: all), and one that was cut off."""
        self.path = workdir / METRICS_FILE
        rows = [row for row in read(workdir) if row["step"] <= resumed_step]
        rows = rows if resumed_step else []
        text = "".join(json.dumps(row) + "\n" for row in rows)
        part = self.path.with_suffix(".part")
        part.write_text(text)
        part.replace(self.path)
        self.file = self.path.open("a")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        row = json.dumps({"step": step, **scalars}, allow_nan=False)
        self.file.write(row + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a run's metrics; without a last one that was cut off."""
    path = epath.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def summary(workdir: epath.PathLike) -> dict[str, Any]:
    """The last metrics of a finished run, and its median tokens/s."""
    out: dict[str, Any] = {}
    rates = []
    for row in read(workdir):
        for kind in ("train", "eval"):
            names = [k for k in row if k.startswith(f"{kind}/")]
            if names:
                out[kind] = {k.removeprefix(f"{kind}/"): row[k] for k in names}
        rates += [row[k] for k in row if k == "train/tokens_per_second"]
    return {**out, "tokens_per_second": statistics.median(rates) if rates else 0.0}


class TensorBoard:
    """Event files under `<workdir>/tensorboard`, by tensorboardX."""

    def __init__(self, workdir: epath.Path, resumed_step: int):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(
            os.fspath(workdir / "tensorboard"), purge_step=resumed_step + 1
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of the `wandb` library (extra `wandb`), resumed by its workdir's name."""

    def __init__(self, workdir: epath.Path, config: RunConfig):
        try:
            import wandb
        except ImportError as e:
            raise ValueError(
                "train.writers names 'wandb', which is not installed; "
                "pip install 'llmjax[wandb]' or remove it"
            ) from e
        self.run = wandb.init(
            id=workdir.name, dir=workdir, resume="allow", config=to_dict(config)
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self.run.log(scalars, step=step)

    def close(self) -> None:
        self.run.finish()


def make(config: RunConfig, workdir: epath.Path, resumed_step: int) -> list[Writer]:
    """The writers of `config.train.writers`; they continue after `resumed_step`."""
    out: list[Writer] = []
    for name in config.train.writers:
        if name == "jsonl":
            out.append(JsonLines(workdir, resumed_step))
        elif name == "tensorboard":
            out.append(TensorBoard(workdir, resumed_step))
        else:
            out.append(WeightsAndBiases(workdir, config))
    return out
