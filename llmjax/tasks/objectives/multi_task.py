"""Several objectives that write text, mixed row by row in one model."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax import config as cfg
from llmjax.tasks.losses import blocked_evaluation
from llmjax.tasks.objectives.causal_lm import CausalLMTask
from llmjax.tasks.objectives.denoising import DenoisingTask
from llmjax.tasks.objectives.fill_in_the_middle import FillInTheMiddleTask
from llmjax.tasks.objectives.language import language_loss, likeliest, token_weights
from llmjax.tasks.objectives.prefix_lm import PrefixLMTask
from llmjax.tasks.objectives.span_corruption import SpanCorruptionTask
from llmjax.tasks.objectives.ul2 import UL2Task
from llmjax.tasks.routing import forward, routed
from llmjax.tasks.task import Batch, Loss, Metrics, Objective, Params

GENERATIVE: dict[type, type[Objective]] = {
    cfg.CausalLM: CausalLMTask,
    cfg.PrefixLM: PrefixLMTask,
    cfg.FillInTheMiddle: FillInTheMiddleTask,
    cfg.SpanCorruption: SpanCorruptionTask,
    cfg.UL2: UL2Task,
    cfg.Denoising: DenoisingTask,
}
# what a part that does not give a feature means: all counts, nothing is a prefix
_NEUTRAL: dict[str, tuple[int, Any]] = {"weights": (1, np.float32), "prefix": (0, bool)}


@dataclasses.dataclass(frozen=True, eq=False)
class MultiTask(Objective):
    """Each text goes to one part, drawn by weight from the example's own rng.

    A batch has the features that all parts have, `weights` and `prefix` where one has
    them, and int32 `task` [B], which part made a row. Texts are as long as fits every
    part. What is minimised is the mean over predicted tokens of all parts.
    """

    architectures = ("decoder", "encoder_decoder")
    packings = ("chunk", "pad")

    @functools.cached_property
    def parts(self) -> tuple[Objective, ...]:
        """The tasks, each on a run of its own."""
        return tuple(
            GENERATIVE[type(part.task)](
                dataclasses.replace(self.run, task=part.task), self.vocabulary
            )
            for part in self.config.parts
        )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The parts' kinds; of a kind that occurs twice with the part's number."""
        kinds = [part.task.kind for part in self.config.parts]
        often = collections.Counter(kinds)
        return tuple(k if often[k] == 1 else f"{k}_{i}" for i, k in enumerate(kinds))

    @property
    def specials(self) -> tuple[str, ...]:  # type: ignore[override]
        union = dict.fromkeys(s for part in self.parts for s in part.specials)
        return tuple(union)

    @property
    def text_length(self) -> int:
        return min(part.text_length for part in self.parts)

    def check(self) -> None:
        architecture = self.run.model.architecture
        for i, part in enumerate(self.parts):
            where = f"task.parts[{i}] ({part.config.kind!r})"
            if architecture not in part.architectures:
                accepted = " or ".join(map(repr, part.architectures))
                raise ValueError(
                    f"{where} needs model.architecture={accepted}, not {architecture!r}"
                )
            if part.config.z_loss or part.config.label_smoothing:
                raise ValueError(
                    f"{where} has a z_loss or label_smoothing of its own; there is one "
                    "loss for all parts: set task.z_loss or task.label_smoothing"
                )
            part.check()

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        drawn = int(np.searchsorted(self._until[:-1], rng.random(), "right"))
        made = self.parts[drawn].features(example, rng)
        shared: dict[str, np.ndarray] = {}
        for name in self._schema:
            if name in _NEUTRAL:
                neutral, dtype = _NEUTRAL[name]
                shared[name] = np.full(len(made["tokens"]), neutral, dtype)
                if name in made:
                    shared[name][:] = made[name]
            else:
                shared[name] = made[name]
        return {**shared, "task": np.array(drawn, np.int32)}

    def length(self, num_tokens: int) -> int:
        return max(part.length(num_tokens) for part in self.parts)

    def loss(self, model: nn.Module) -> Loss:
        """As `language_loss`, and when not training `loss/NAME` of each part."""
        train = language_loss(model, self.config.z_loss, self.config.label_smoothing)

        def loss(params, frozen, extra, batch, rng):
            if rng is not None:
                return train(params, frozen, extra, batch, rng)
            total, count, metrics = self._evaluate(model, params, batch)
            return total, count, metrics, extra

        return loss

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The likeliest next token at every place, int [B, T]."""
        return likeliest(model)

    def _evaluate(
        self, model: Any, params: Params, batch: Batch
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Sum, count and metrics of a batch, the rows of each part apart too."""
        outputs, router = forward(model, params, batch, None)
        weights_BT = token_weights(batch)
        nll_B, right_B = blocked_evaluation(
            outputs.x_BTM,
            outputs.table_VM,
            outputs.bias_V,
            batch["targets"],
            weights_BT,
            model.layout.loss_block,
            outputs.softcap,
        )
        count_B = jnp.sum(weights_BT, axis=1)
        total, count = jnp.sum(nll_B), jnp.sum(count_B)
        metrics = {"loss": (total, count), "accuracy": (jnp.sum(right_B), count)}
        for i, name in enumerate(self.names):
            mine_B = batch["task"] == i
            metrics[f"loss/{name}"] = jnp.sum(nll_B * mine_B), jnp.sum(count_B * mine_B)
        if "num_bytes" in batch:
            num_bytes = jnp.sum(batch["num_bytes"] * weights_BT)
            metrics["bits_per_byte"] = (total / math.log(2), num_bytes)
        total, metrics = routed(model, router, total, count, metrics)
        return total, count, metrics

    @functools.cached_property
    def _until(self) -> np.ndarray:
        """Where each part's share of [0, 1) ends."""
        weights = np.array([part.weight for part in self.config.parts])
        return np.cumsum(weights / weights.sum())

    @functools.cached_property
    def _schema(self) -> tuple[str, ...]:
        """The names of the features of every row."""
        probe = {"tokens": np.full(4, self.vocabulary.eos_id, np.int32)}
        rng = np.random.default_rng(0)
        made = [part.features(probe, rng).keys() for part in self.parts]
        neutral = set(_NEUTRAL).intersection(set().union(*made))
        return tuple(sorted(set(made[0]).intersection(*made) | neutral))
