"""A language model with further heads, each predicting another token ahead."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import Group, ModelConfig
from llmjax.models.embedder import Embedder
from llmjax.models.heads.language import LanguageModel, Outputs
from llmjax.models.paged import AnyCache
from llmjax.models.stack import Stack
from llmjax.models.transformer import Batch, Transformer


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


def first_head(cfg: ModelConfig, params: Any, depth: int) -> Any:
    """The first head of `PredictionHeads`, as parameters of `LanguageModel(cfg)`.

    Args:
      cfg: of the run, where the last layer is not yet in a group of its own.
      params: of `PredictionHeads(last_apart(cfg))`, or of one of a single head.
      depth: heads.
    """
    if depth == 1:
        return params
    transformer = params["transformer"]
    stack, (*_, last) = dict(transformer["stack"]), cfg.layers
    for k in range(2, depth + 1):
        del stack[f"head_{k}"]
    index = len(cfg.layers) - 1
    apart = [stack.pop(f"group_{i}") for i in range(index, len(last_apart(cfg).layers))]
    stacked = dict[str, Any]()
    for i in range(len(last.pattern)):
        name = f"layer_{i}"
        pieces = [piece[name] for piece in apart[:-1] if name in piece]
        if i == len(last.pattern) - 1:
            pieces.append(apart[-1]["layer_0"])
        stacked[name] = jax.tree.map(lambda *xs: jnp.concatenate(xs), *pieces)
    if last.shared:  # once, and with a first axis L of 1 where it stood apart
        stacked = jax.tree.map(lambda x: x[0], stacked)
    stack[f"group_{index}"] = stacked
    return {**params, "transformer": {**transformer, "stack": stack}}


class HeadedStack(Stack):
    """A stack whose last group stands `depth` times, each on the trunk's output.

    Its states are [B, T, X, D], X = `depth`, all through the one last norm; where a
    cache is passed only the first's, X = 1.
    """

    depth: int = 1

    def group(self, index, name, x_BTD, caches, context, slot):
        """`Stack.group`, with the last group's states stacked over the heads."""
        run = functools.partial(super().group, index)
        first_BTD, written = run(name, x_BTD, caches, context, slot)
        if index < len(self.groups) - 1:
            return first_BTD, written
        further = range(2, self.depth + 1) if caches is None else ()
        others = [run(f"head_{k}", x_BTD, None, context, slot)[0] for k in further]
        return jnp.stack([first_BTD, *others], axis=2), written


class ManyHeaded(Transformer):
    """A decoder over `HeadedStack`; itself it gives the first head's states."""

    depth: int = 1

    def setup(self):
        cfg = self.cfg
        self.embedder = Embedder(cfg, self.layout)
        self.stack = HeadedStack(cfg, self.layout, cfg.layers, depth=self.depth)

    def __call__(
        self,
        batch: Batch,
        cache: AnyCache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, AnyCache | None]:
        x_BTXD, cache = super().__call__(batch, cache, encoded_BSD)
        return x_BTXD[:, :, 0], cache

    def states(self, batch: Batch) -> jax.Array:
        """The states of all heads, [B, T, X, D]."""
        return super().__call__(batch)[0]


class PredictionHeads(LanguageModel):
    """Gloeckle et al. 2024, arXiv:2404.19737, 2; facebook/multi-token-prediction.

    All layers but the last are the trunk. The last is the first head, and `depth` - 1
    more layers like it are the others; they share the last norm and the table. Used as
    a `LanguageModel` it is its first head; the others are not computed.

    Attributes:
      depth: heads; the k-th predicts the k-th token ahead.
    """

    depth: int = 1

    def body(self) -> Any:
        return ManyHeaded(self.cfg, self.layout, depth=self.depth)

    def heads(self, batch: Batch) -> list[Outputs]:
        """Each head's `Outputs`, for a blocked loss."""
        x_BTXD = self.transformer.states(batch)
        return [self._outputs(x_BTXD[:, :, k]) for k in range(self.depth)]
