"""Permutation language modelling: in a random order, by two streams."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from llmjax.config import TransformerXL
from llmjax.tasks.objectives.language import LanguageObjective
from llmjax.tasks.task import Batch, Outputs, Variables

CLASSIFIER_TYPE = 2  # XLNet's token type of <cls>; that of text is 0


@dataclasses.dataclass(frozen=True, eq=False)
class PermutationLMTask(LanguageObjective):
    """XLNet (Yang et al. 2019, arXiv:1906.08237); data_utils.py of zihangdai/xlnet.

    A row is one text, <sep>, <cls>. One token in `partial` is a target, in spans drawn
    by `_sample_mask`; the order of factorisation is `_local_perm`'s with `perm_size`
    the whole row. Left out: the memory of the row before, which needs rows in the
    text's order, and the second text of a row.
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
        """`tokens`, the same as `targets`, and `weights`, 1 where predicted.

        `order` is each token's place in the factorisation, -1 for tokens that are
        visible from the start; `token_types` tell <cls> from the rest.
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

    def outputs(self, model: nn.Module) -> Outputs:
        """Outputs of the query stream."""
        inner = super().outputs(model)
        return lambda variables, batch, rng: inner(variables, ordered(batch), rng)

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The likeliest token at every position, int [B, T], from those before it in
        `order`; see `weights`."""
        inner = super().predict(model)
        return lambda variables, batch: inner(variables, ordered(batch))


def sample_spans(
    starts: np.ndarray,
    goal: int,
    partial: int,
    max_span: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """`goal` tokens to predict, bool [n] (2.3 and `_sample_mask`).

    Left to right: a length up to `max_span`, with a probability proportional to its
    inverse, and in a window of `partial` times as many tokens a span of that length,
    from the start of a word. The tokens still missing to `goal` are drawn one by one.

    Args:
      starts: bool [n], the first tokens of words.
      goal: at most n.
      partial, max_span: of `PermutationLM`.
      rng: source of all draws.
    """
    n = len(starts)
    chosen = np.zeros(n, bool)
    likely = np.cumsum(1 / np.arange(1, max_span + 1))
    place, missing = 0, goal
    while place < n and missing:
        drawn = np.searchsorted(likely, rng.random() * likely[-1], side="right")
        span = min(int(drawn) + 1, missing)
        window = span * partial
        left = int(rng.integers(window))
        ahead = starts[place + left :]
        begin = place + left + int(ahead.argmax()) if ahead.any() else n
        if begin + span >= n:  # like theirs, no span ends with the row
            break
        chosen[begin : begin + span] = True
        missing -= span
        place = begin + span + window - left
    chosen[rng.choice(np.flatnonzero(~chosen), missing, replace=False)] = True
    return chosen


def ordered(batch: Batch) -> Batch:
    """The batch with `hidden_mask` [B, T, T] from `order` and `weights` [B, T].

    A token sees those that are visible from the start and those before it in the
    order; a functional token sees itself too, a target does not. Tokens that are
    visible from the start see only each other.
    """
    order_BT = batch["order"]
    own_BT = order_BT + 1 - batch["weights"].astype(order_BT.dtype)
    return {**batch, "hidden_mask": own_BT[:, :, None] <= order_BT[:, None, :]}
