"""Next sentence prediction beside masked language modelling."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.data.batches.pipeline import Source
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.tokens import TokenSource
from llmjax.models.forward import forward
from llmjax.models.heads.pairs import PairModel
from llmjax.tasks.losses import cross_entropy
from llmjax.tasks.objectives.masked_lm import MaskedLMTask
from llmjax.tasks.objectives.sentences import SentenceGroups, first_sentences, truncated
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import Batch, Metrics, Outputs, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class SentencePairTask(MaskedLMTask):
    """<cls> A <sep> B <sep>, masked, and whether the pair is as it was written.

    `token_types` are 0 up to the first <sep> and 1 from B on. Examples are groups of
    sentences; a share `short` of them is cut after a random number of tokens, uniform
    up to what fits.
    """

    packings = ("pad",)
    labels = ("label",)

    @abc.abstractmethod
    def segments(
        self, example: Mapping[str, Any], goal: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Segments A and B of a group's first `goal` tokens; whether B follows A."""

    @property
    def text_length(self) -> int:
        """The most tokens of A and B together."""
        return self.run.data.seq_len - 3

    def length(self, num_tokens: int) -> int:
        return num_tokens + 3

    def check(self) -> None:
        """Raises ValueError for a model without two types, or rows without room."""
        types, T = self.run.model.token_types, self.run.data.seq_len
        if types < 2:
            raise ValueError(
                f"task {self.config.kind!r} tells two segments apart by their token "
                f"types, and model.token_types={types}; set it to 2"
            )
        if T < 5:
            raise ValueError(
                f"task {self.config.kind!r} needs data.seq_len of at least 5 for a "
                f"pair and its 3 special tokens, not {T}"
            )

    def examples(self, documents: TokenSource) -> Source:
        return SentenceGroups(documents, self.vocabulary, self.text_length)

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A masked LM's, `token_types`, and the scalar `label`, 1 if B follows A."""
        goal = self.text_length
        if rng.random() < self.config.short:
            goal = int(rng.integers(2, goal + 1))
        a, b, follows = self.segments(example, goal, rng)
        a, b = truncated(a, b, self.text_length, rng)
        cls, sep = self.frame
        tokens = np.concatenate([cls, a, sep, b, sep])
        types = (np.arange(len(tokens)) >= len(a) + 2).astype(np.int32)
        return {
            **self.masking(tokens, rng),
            "token_types": types,
            "label": np.asarray(follows, np.int32),
        }

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return PairModel(cfg, layout)

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model, "pair_outputs")

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """The mean loss of tokens and that of pairs, added with equal weight.

        So that microbatches add up, a pair counts as often as tokens of its row are
        predicted. Metrics: a masked LM's, `pair_loss` in nats, `pair_accuracy`, and
        `pair_share`, the share of pairs in which B follows A.
        """
        tokens, pair_BC = outputs.head
        total, count_B, metrics = self.masked_loss(tokens, batch, training)
        label_B, loss = batch["label"], self.run.loss
        loss_B, nll_B = cross_entropy(
            pair_BC, label_B, loss.z_loss, loss.label_smoothing
        )
        valid_B = batch.get("valid", jnp.ones_like(label_B)).astype(jnp.float32)
        right_B = jnp.argmax(pair_BC, axis=-1) == label_B
        pairs = jnp.sum(valid_B)
        metrics |= {
            "pair_loss": (jnp.sum(nll_B * valid_B), pairs),
            "pair_accuracy": (jnp.sum(right_B * valid_B), pairs),
            "pair_share": (jnp.sum(label_B * valid_B), pairs),
        }
        total += jnp.sum(loss_B * valid_B * count_B)
        return with_routing(outputs, total, jnp.sum(count_B), metrics)

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """Whether B follows A, int [B]."""

        def predict(variables, batch):
            (_, pair_BC), _ = forward(model, variables, batch)
            return jnp.argmax(pair_BC, axis=-1)

        return predict

    def decode(self, values: Any, corpus: Corpus | None) -> list[Any]:
        return [bool(follows) for follows in values]


class NextSentenceTask(SentencePairTask):
    """Devlin et al. 2018, arXiv:1810.04805, 3.1, A.2.

    A is the first sentences of a group, cut at random; B the rest, or for a share
    `random_next` sentences of another document from a random one on. Differs from
    google-research/bert's create_pretraining_data.py in two points, so that only the
    text tells true pairs from false ones: a group has at least two sentences, where
    theirs draws B elsewhere for lack of a second; and B from elsewhere is as long as
    the rest was, where theirs fills a row up, so that at a document's end the length
    gives B away.
    """

    def length(self, num_tokens: int) -> int:
        """A whole row: B of another document may be longer than what followed A."""
        return self.run.data.seq_len

    def segments(
        self, example: Mapping[str, Any], goal: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        tokens, sizes = first_sentences(example, goal)
        cut = int(sizes[: rng.integers(1, len(sizes))].sum())
        a, b = tokens[:cut], tokens[cut:]
        if rng.random() >= self.config.random_next:
            return a, b, True
        size = max(1, min(len(b), goal - len(a)))
        return a, example["groups"].elsewhere(example["document"], size, rng), False
