"""Permutation language modelling: in a random order, by two streams."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from llmjax.config import TransformerXL
from llmjax.tasks.objectives.language import language_loss, likeliest
from llmjax.tasks.task import Batch, Loss, Objective, Params

CLASSIFIER_TYPE = 2  # XLNet's token type of <cls>; that of text is 0


@dataclasses.dataclass(frozen=True, eq=False)
class PermutationLMTask(Objective):
    """XLNet (Yang et al. 2019, arXiv:1906.08237), as data_utils.py of zihangdai/xlnet.

    A row is one text, <sep>, <cls>. One token in `partial` is a target, in spans as
    `_sample_mask` draws them; the order of factorisation is `_local_perm`'s with
    `perm_size` the whole row. Left out: the memory of the row before, which needs rows
    in the text's order, and the second text of a row.
    """

    architectures = ("encoder",)
    packings = ("chunk", "pad")
    specials = ("<sep>", "<cls>")

    def check(self) -> None:
        """Raises ValueError for a model without a query stream."""
        kind = self.run.model.positions.kind
        if kind != TransformerXL.kind:
            raise ValueError(
                f"task {self.config.kind!r} needs model.positions.kind="
                f"{TransformerXL.kind!r}, which has two streams, not {kind!r}"
            )

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens`, which are the `targets` too; 1 in `weights` for those predicted.

        `order` is each token's place in the factorisation, -1 for what is given from
        the start; `token_types` tell <cls> from the rest.
        """
        text = example["tokens"]
        frame = np.array([self.vocabulary.special_id(s) for s in self.specials])
        tokens = np.concatenate([text, frame]).astype(np.int32)
        functional = np.isin(tokens, frame)
        starts = functional.copy()
        starts[: len(text)] |= self.vocabulary.word_starts(text)
        goal = max(len(tokens) // self.config.partial, 1)
        chosen = sample_spans(
            starts, goal, self.config.partial, self.config.max_span, rng
        )
        order = np.where(chosen | functional, rng.permutation(len(tokens)), -1)
        types = np.zeros_like(tokens)
        types[-1] = CLASSIFIER_TYPE
        return {
            "tokens": tokens,
            "targets": tokens,
            "weights": (chosen & ~functional).astype(np.int32),
            "order": order.astype(np.int32),
            "token_types": types,
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + len(self.specials)

    def loss(self, model: nn.Module) -> Loss:
        """Of the query stream; metrics are per target."""
        inner = language_loss(model)

        def loss(params, frozen, extra, batch, rng):
            return inner(params, frozen, extra, ordered(batch), rng)

        return loss

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The likeliest token at every place, int [B, T], from those before it in
        `order`; see `weights`."""
        inner = likeliest(model)
        return lambda params, batch: inner(params, ordered(batch))


def sample_spans(
    starts: np.ndarray,
    goal: int,
    partial: int,
    max_span: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Bool [n], True for `goal` tokens to predict (2.3 and `_sample_mask`).

    Left to right: a length up to `max_span` with a probability as its inverse, and
    somewhere in a context of `partial` times as many tokens a span of that many, from
    where a word starts. What is then missing to `goal` is drawn one by one.

    Args:
      starts: bool [n], where words start.
      goal: how many; at most n.
      partial, max_span: as of `PermutationLM`.
      rng: drawn from.
    """
    n = len(starts)
    chosen = np.zeros(n, bool)
    likely = np.cumsum(1 / np.arange(1, max_span + 1))
    place, missing = 0, goal
    while place < n and missing:
        drawn = np.searchsorted(likely, rng.random() * likely[-1], side="right")
        span = min(int(drawn) + 1, missing)
        context = span * partial
        left = int(rng.integers(context))
        ahead = starts[place + left :]
        begin = place + left + int(ahead.argmax()) if ahead.any() else n
        if begin + span >= n:  # as theirs, none ends with the row
            break
        chosen[begin : begin + span] = True
        missing -= span
        place = begin + span + context - left
    chosen[rng.choice(np.flatnonzero(~chosen), missing, replace=False)] = True
    return chosen


def ordered(batch: Batch) -> Batch:
    """The batch with `hidden_mask` [B, T, T] from `order` and `weights` [B, T].

    A token sees what is given from the start and what stands before it in the order; a
    functional token sees itself too, a target does not. What is given sees the given.
    """
    order_BT = batch["order"]
    own_BT = order_BT + 1 - batch["weights"].astype(order_BT.dtype)
    return {**batch, "hidden_mask": own_BT[:, :, None] <= order_BT[:, None, :]}
