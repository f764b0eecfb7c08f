"""A language model with further heads, each predicting another token ahead."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import Group, ModelConfig
from llmjax.models.cache import Cache
from llmjax.models.embedder import Embedder
from llmjax.models.heads.language import LanguageModel, Outputs
from llmjax.models.transformer import Batch, Stack, Transformer


def last_apart(cfg: ModelConfig) -> ModelConfig:
    """The same model with its last layer in a group of its own.

    Raises:
      ValueError: the layer shares its weights with others.
    """
    *before, last = cfg.layers
    if last.shared and last.repeat > 1:
        raise ValueError(
            "the last layer shares its weights with the layers before it, so no head "
            "can take its place; give model.groups a last one with shared=False"
        )
    if last.repeat > 1:
        before.append(dataclasses.replace(last, repeat=last.repeat - 1))
    if len(last.pattern) > 1:
        before.append(Group(1, last.pattern[:-1]))
    groups = (*before, Group(1, last.pattern[-1:]))
    return dataclasses.replace(cfg, groups=groups)


class ManyLast(Stack):
    """A stack whose last group stands `depth` times, each on what the trunk gives.

    Its states are [B, T, X, D], X = `depth`, all through the one last norm; where a
    cache is given only the first's, X = 1.
    """

    depth: int = 1

    def _scan(self, group: Group, name: str) -> Any:
        first: Any = super()._scan(group, name)
        if name != f"group_{len(self.groups) - 1}":
            return first
        others: list[Any] = [
            super(ManyLast, self)._scan(group, f"head_{k}")
            for k in range(2, self.depth + 1)
        ]

        def heads(carry, *arguments):
            (x_BTD, caches), ys = first(carry, *arguments)
            further = others if caches is None else []
            states = [x_BTD, *(f(carry, *arguments)[0][0] for f in further)]
            return (jnp.stack(states, axis=2), caches), ys

        return heads


class ManyHeaded(Transformer):
    """A decoder over `ManyLast`; itself it gives the first head's states."""

    depth: int = 1

    def setup(self):
        cfg = self.cfg
        self.embedder = Embedder(cfg, self.layout)
        self.stack = ManyLast(cfg, self.layout, cfg.layers, depth=self.depth)

    def __call__(
        self,
        batch: Batch,
        cache: Cache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        x_BTXD, cache = super().__call__(batch, cache, encoded_BSD)
        return x_BTXD[:, :, 0], cache

    def states(self, batch: Batch) -> jax.Array:
        """Those of all heads, [B, T, X, D]."""
        return super().__call__(batch)[0]


class PredictionHeads(LanguageModel):
    """Gloeckle et al. 2024, arXiv:2404.19737, 2; facebook/multi-token-prediction.

    All layers but the last are the trunk. The last is the first head, and `depth` - 1
    more layers like it are the others; they share the last norm and the table. Used as
    a `LanguageModel` it is its first head: what else there is, nobody computes.

    Attributes:
      depth: heads; the k-th predicts the k-th token ahead.
    """

    depth: int = 1

    def body(self) -> Any:
        return ManyHeaded(self.cfg, self.layout, depth=self.depth)

    def heads(self, batch: Batch) -> list[Outputs]:
        """Of each head, logits yet to be made, for a blocked loss."""
        x_BTXD = self.transformer.states(batch)
        return [self._outputs(x_BTXD[:, :, k]) for k in range(self.depth)]
