"""Progress of a loop: rows for the writers, a bar, and speed."""

import contextlib
import math
import time
from typing import Any

import jax
import tqdm
from etils import epath

from llmjax.config import Float16, RunConfig
from llmjax.data.batches.curriculum import Curriculum
from llmjax.parallel.processes import distributed, supervise
from llmjax.train.metrics import writers
from llmjax.train.metrics.evaluation import means
from llmjax.train.metrics.finite import NotFiniteError
from llmjax.train.optimizers import optimizers


class Log:
    """Reads each step's metrics when the next one is under way, and writes them."""

    def __init__(
        self,
        config: RunConfig,
        directory: epath.Path,
        start: int,
        progress: bool,
        account: dict[str, Any] | None = None,
    ):
        """`account` is what the checkpoint of step `start` has of `account()`."""
        self.config, self.directory = config, directory
        self.saved_step = start or None
        self.schedule = optimizers.schedule(config.optimizer, config.train.steps)
        leader = distributed.is_leader()
        self.writers = writers.make(config, directory, start, account) if leader else []
        self.pending: tuple[int, Any] | None = None
        self.watch = Stopwatch()
        self.curriculum = Curriculum(config.data)
        self.results: dict[str, Any] = {}
        self.shown = dict.fromkeys(("loss", "rate", "skipped", "eval"), "")
        self.bar = tqdm.tqdm(
            total=config.train.steps,
            initial=start,
            desc="train",
            unit="step",
            disable=not (progress and leader) or start >= config.train.steps,
            mininterval=1.0,
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.flush()
        self.bar.close()
        for writer in self.writers:
            # a full disk says so once
            with contextlib.suppress(*([OSError] if kind else [])):
                writer.close()

    def stepped(self, step: int, out: Any) -> None:
        """Takes the metrics of `step`, still being computed; reads those before."""
        self.flush()
        self.pending = step, out

    def flush(self) -> None:
        """Reads and writes what is pending; waits for it.

        Raises:
          NotFiniteError: the loss or the gradient's norm is not finite.
        """
        if self.pending is None:
            return
        step, out = self.pending
        self.pending = None
        metrics, scalars = jax.device_get(out)
        row = means([{k: v for k, v in metrics.items() if v[1] > 0}])
        self.watch.lap(self.curriculum.tokens(step - 1))
        if not all(map(math.isfinite, [*row.values(), float(scalars["grad_norm"])])):
            raise NotFiniteError(
                f"step {step}: loss is {row.get('loss')}, gradient norm "
                f"{float(scalars['grad_norm'])}; {self.last_checkpoint()}: "
                f"{remedy(self.config)}"
            )
        self.bar.update(step - self.bar.n)
        supervise.report_step(step)
        train = self.config.train
        if step % train.log_every == 0 or step == train.steps:
            row["learning_rate"] = float(self.schedule(step - 1))
            row |= {name: float(value) for name, value in scalars.items()}
            row["tokens_per_second"] = rate = self.watch.rate_since_last()
            self._write(step, "train", row)
            self.shown |= {"loss": "", "rate": f"{rate:,.0f} tokens/s" if rate else ""}
            if "loss" in row:  # a step that float16 skipped has none
                self.shown["loss"] = f"loss {row['loss']:.3f}"
            if row.get("skipped"):
                self.shown["skipped"] = f"skipped {row['skipped']:.0f}"
            self._show()

    def last_checkpoint(self) -> str:
        """A phrase that says from where the run can go on."""
        if self.saved_step is None:
            return "nothing was saved before it"
        return f"the last checkpoint is of step {self.saved_step}"

    def account(self) -> dict[str, Any] | None:
        """Size and sha256 of the rows so far, for a checkpoint."""
        files = [w for w in self.writers if isinstance(w, writers.JsonLines)]
        return files[0].account() if files else None

    def evaluating(self) -> None:
        """Says on the bar that an evaluation goes on."""
        self.bar.set_description_str("evaluate")

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Writes an evaluation's metrics; its time does not count as training's."""
        self._write(step, "eval", metrics)
        names = dict.fromkeys(["loss", self.config.train.best_metric])
        values = [f"{n} {metrics[n]:.3f}" for n in names if n in metrics]
        self.shown["eval"] = f"held out: {', '.join(values)}"
        self.bar.set_description_str("train", refresh=False)
        self._show()
        self.watch.restart()

    def _show(self) -> None:
        self.bar.set_postfix_str("; ".join(filter(None, self.shown.values())))

    def _write(self, step: int, kind: str, row: dict[str, float]) -> None:
        for writer in self.writers:
            writer.write(step, {f"{kind}/{k}": v for k, v in row.items()})
        self.results |= {kind: row}

    def summary(self) -> dict[str, Any]:
        """The last metrics, tokens/s over all steps but the first, and its time.

        Of a run that was at its end already: from the rows that it wrote.
        """
        if self.watch.first is None:
            return writers.summary(self.directory)
        return {
            **self.results,
            "tokens_per_second": self.watch.rate(),
            "seconds_to_first_step": self.watch.first,
        }


def remedy(config: RunConfig) -> str:
    """Advice where a step's numbers are not finite.

    Float16's loss scale has been lowered to its floor by then.
    """
    if isinstance(config.layout.precision, Float16):
        return (
            "float16 overflows even with the loss unscaled; set layout.precision.kind "
            "to 'bfloat16' or 'float32'"
        )
    return "lower optimizer.learning_rate or look at that batch"


class Stopwatch:
    """Tokens per second of steps; the first, which compiles, stands apart."""

    def __init__(self) -> None:
        self.mark = time.perf_counter()
        self.first: float | None = None
        self.tokens, self.seconds = 0, 0.0
        self.read = 0, 0.0

    def lap(self, tokens: int) -> None:
        now = time.perf_counter()
        if self.first is None:
            self.first = now - self.mark
        else:
            self.tokens += tokens
            self.seconds += now - self.mark
        self.mark = now

    def restart(self) -> None:
        self.mark = time.perf_counter()

    def rate(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    def rate_since_last(self) -> float:
        """Tokens per second since the last call."""
        tokens, seconds = self.tokens - self.read[0], self.seconds - self.read[1]
        self.read = self.tokens, self.seconds
        return tokens / max(seconds, 1e-9)
