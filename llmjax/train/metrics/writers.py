"""Where metrics go: JSON lines, TensorBoard, Weights & Biases."""

import hashlib
import json
import os
import statistics
import sys
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from etils import epath

from llmjax.config import RunConfig, to_dict

METRICS_FILE = "metrics.jsonl"
REMEDY = "mend it, or move it away to begin a new one"


@runtime_checkable
class Writer(Protocol):
    """Takes scalars by step."""

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds one row."""

    def close(self) -> None:
        """Nothing more will come."""


class JsonLines:
    """`<workdir>/metrics.jsonl`: one object per row, `step` first."""

    def __init__(
        self,
        workdir: epath.Path,
        resumed_step: int,
        account: dict[str, Any] | None = None,
    ):
        """Goes on after `resumed_step` (0: anew), without the rows that are later.

        Args:
          workdir: of the run.
          resumed_step: of the checkpoint.
          account: of the file as it was when that was saved.

        Raises:
          ValueError: an earlier row was changed or cannot be read; nothing is dropped.
        """
        self.path = workdir / METRICS_FILE
        kept = _kept(self.path, resumed_step, account)
        part = self.path.with_suffix(".part")
        part.write_bytes(kept)
        part.replace(self.path)
        self.size, self.digest = len(kept), hashlib.sha256(kept)
        self.file = self.path.open("a")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        line = json.dumps({"step": step, **scalars}, allow_nan=False) + "\n"
        self.file.write(line)
        self.file.flush()
        self.size += len(line)  # of ASCII
        self.digest.update(line.encode())

    def account(self) -> dict[str, Any]:
        """Size and sha256 of the file as it is."""
        return {"bytes": self.size, "sha256": self.digest.hexdigest()}

    def close(self) -> None:
        self.file.close()


def _kept(path: epath.Path, step: int, account: dict[str, Any] | None) -> bytes:
    """The rows up to `step`, as they were written."""
    if not step:
        return b""
    if account is None:
        rows = [line for line, row in _rows(path) if row["step"] <= step]
        return b"".join(line + b"\n" for line in rows)
    data = path.read_bytes() if path.exists() else b""
    kept = data[: account["bytes"]]
    if account["bytes"] and not path.exists():
        print(f"{path} is gone: it begins anew after step {step}", file=sys.stderr)
    elif hashlib.sha256(kept).hexdigest() != account["sha256"]:
        for _ in _rows(path):  # names a row that cannot be read
            pass
        raise ValueError(
            f"{path} is damaged: its first {account['bytes']} bytes are not those that "
            f"it had when step {step} was saved; {REMEDY}"
        )
    return kept


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a run's metrics; without a last one that was cut off.

    Raises:
      ValueError: a row cannot be read; names its line.
    """
    return [row for _, row in _rows(epath.Path(workdir) / METRICS_FILE)]


def _rows(path: epath.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(line, row) of all rows that were written whole."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # the last one was cut off, or empty
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("it is no object with a step")
        except ValueError as e:
            raise ValueError(
                f"{path} is damaged in line {number} ({e}); {REMEDY}"
            ) from e
        yield line, row


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


def make(
    config: RunConfig,
    workdir: epath.Path,
    resumed_step: int,
    account: dict[str, Any] | None = None,
) -> list[Writer]:
    """The writers of `config.train.writers`; they continue after `resumed_step`.

    `account` is that of `JsonLines` when it was saved.
    """
    out: list[Writer] = []
    for name in config.train.writers:
        if name == "jsonl":
            out.append(JsonLines(workdir, resumed_step, account))
        elif name == "tensorboard":
            out.append(TensorBoard(workdir, resumed_step))
        else:
            out.append(WeightsAndBiases(workdir, config))
    return out
