"""Several objectives that write text, mixed row by row in one model."""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax import config as cfg
from llmjax.tasks.losses import blocked_evaluation
from llmjax.tasks.objectives.causal_lm import CausalLMTask
from llmjax.tasks.objectives.denoising import DenoisingTask
from llmjax.tasks.objectives.fill_in_the_middle import FillInTheMiddleTask
from llmjax.tasks.objectives.language import LanguageObjective, token_weights
from llmjax.tasks.objectives.prefix_lm import PrefixLMTask
from llmjax.tasks.objectives.span_corruption import SpanCorruptionTask
from llmjax.tasks.objectives.ul2 import UL2Task
from llmjax.tasks.routing import Routed, with_routing
from llmjax.tasks.task import Batch, Metrics

GENERATIVE: dict[type, type[LanguageObjective]] = {
    cfg.CausalLM: CausalLMTask,
    cfg.PrefixLM: PrefixLMTask,
    cfg.FillInTheMiddle: FillInTheMiddleTask,
    cfg.SpanCorruption: SpanCorruptionTask,
    cfg.UL2: UL2Task,
    cfg.Denoising: DenoisingTask,
}
# values of a feature that a part lacks: every token counts, none is a prefix
_NEUTRAL: dict[str, tuple[int, Any]] = {"weights": (1, np.float32), "prefix": (0, bool)}


@dataclasses.dataclass(frozen=True, eq=False)
class MultiTask(LanguageObjective):
    """Each text goes to one part, drawn by weight from the example's own rng.

    A batch has the features that all parts have, `weights` and `prefix` if one of them
    has, and int32 `task` [B], the part of each row. A text is as long as fits every
    part. The loss is the mean over the predicted tokens of all parts.
    """

    architectures = ("decoder", "encoder_decoder")
    packings = ("chunk", "pad")

    @functools.cached_property
    def parts(self) -> tuple[LanguageObjective, ...]:
        """The tasks, each on a run of its own."""
        return tuple(
            GENERATIVE[type(part.task)](
                dataclasses.replace(self.run, task=part.task), self.vocabulary
            )
            for part in self.config.parts
        )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The parts' kinds; one that occurs twice has the part's number behind it."""
        kinds = [part.task.kind for part in self.config.parts]
        counts = collections.Counter(kinds)
        return tuple(k if counts[k] == 1 else f"{k}_{i}" for i, k in enumerate(kinds))

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
            part.check()

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        drawn = int(np.searchsorted(self._until[:-1], rng.random(), "right"))
        own = self.parts[drawn].features(example, rng)
        shared: dict[str, np.ndarray] = {}
        for name in self._schema:
            if name in _NEUTRAL:
                neutral, dtype = _NEUTRAL[name]
                shared[name] = np.full(len(own["tokens"]), neutral, dtype)
                if name in own:
                    shared[name][:] = own[name]
            else:
                shared[name] = own[name]
        return {**shared, "task": np.array(drawn, np.int32)}

    def length(self, num_tokens: int) -> int:
        return max(part.length(num_tokens) for part in self.parts)

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """The score of all rows; when not training with `loss/NAME` of each part."""
        if training:
            return super().score(outputs, batch, training)
        head, weights_BT = outputs.head, token_weights(batch)
        nll_B, right_B = blocked_evaluation(
            head.x_BTM,
            head.table_VM,
            head.bias_V,
            batch["targets"],
            weights_BT,
            self.run.layout.loss_block,
            head.softcap,
        )
        count_B = jnp.sum(weights_BT, axis=1)
        total, count = jnp.sum(nll_B), jnp.sum(count_B)
        metrics = {"loss": (total, count), "accuracy": (jnp.sum(right_B), count)}
        for i, name in enumerate(self.names):
            part_B = batch["task"] == i
            metrics[f"loss/{name}"] = jnp.sum(nll_B * part_B), jnp.sum(count_B * part_B)
        if "num_bytes" in batch:
            num_bytes = jnp.sum(batch["num_bytes"] * weights_BT)
            metrics["bits_per_byte"] = (total / math.log(2), num_bytes)
        return with_routing(outputs, total, count, metrics)

    @functools.cached_property
    def _until(self) -> np.ndarray:
        """The end of each part's share of [0, 1)."""
        weights = np.array([part.weight for part in self.config.parts])
        return np.cumsum(weights / weights.sum())

    @functools.cached_property
    def _schema(self) -> tuple[str, ...]:
        """The names of the features of every row."""
        probe = {"tokens": np.full(4, self.vocabulary.eos_id, np.int32)}
        rng = np.random.default_rng(0)
        names = [part.features(probe, rng).keys() for part in self.parts]
        neutral = set(_NEUTRAL).intersection(set().union(*names))
        return tuple(sorted(set(names[0]).intersection(*names) | neutral))
