"""Log-likelihoods of continuations behind their contexts, over all devices.

Texts of about one length share a batch, and a batch always has the same number of rows,
so that few shapes are compiled. Logits exist for a block of positions at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax.config import LayoutConfig
from llmjax.infer.prompts import check_finite, check_positions, check_tokens, doubling
from llmjax.models.forward import forward, variables
from llmjax.parallel import axes as axes_lib
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.losses import blocked_evaluation

Ids = Sequence[int] | np.ndarray
Pair = tuple[Ids, Ids]  # tokens of a context, and behind it


class Score(NamedTuple):
    """A continuation as a model sees it.

    Attributes:
      log_likelihood: of all its tokens, in nats.
      greedy: whether each of them is the likeliest.
    """

    log_likelihood: float
    greedy: bool


class Scorer:
    """A language model that scores continuations.

    Attributes:
      max_length: tokens that the model reads at most.
      cut: contexts so far of which only the end was read.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        *,
        batch_size: int,
        max_length: int,
        mesh: Mesh | None = None,
    ):
        """Lays the weights on every device, whole.

        Args:
          model: a decoder that predicts next tokens.
          params: its weights.
          batch_size: texts of a batch on each device.
          max_length: tokens that the model reads at most.
          mesh: whose devices share a batch; None: all that are here.

        Raises:
          ValueError: another model, several processes, or more tokens than positions.
        """
        cfg = model.cfg
        if cfg.architecture != "decoder":
            raise ValueError(
                f"model.architecture is {cfg.architecture!r}; only a 'decoder' scores "
                "the continuation of a text"
            )
        if jax.process_count() > 1:
            raise ValueError(
                "log-likelihoods are collected by one process, and there are "
                f"{jax.process_count()}; start one, over as many devices as it has"
            )
        check_positions(cfg, f"max_length={max_length}", max_length)
        self.max_length, self.cut = max_length, 0
        self._model = model
        self._mesh = mesh or mesh_lib.make_mesh(LayoutConfig())
        self._rows = batch_size * mesh_lib.batch_shards(self._mesh)
        whole = NamedSharding(self._mesh, PartitionSpec())
        self._params = jax.device_put(params, whole)
        self._sizes = doubling(max_length, model.layout.attention)
        self._score = jax.jit(self._scored)

    def __call__(
        self, pairs: Sequence[Pair], done: Callable[[int], Any] = lambda count: None
    ) -> list[Score]:
        """The score of each continuation, in their order.

        Of a text longer than `max_length` the beginning is left out, and `cut` counts
        it. (The last token is predicted and not read.)

        Args:
          pairs: each a context of at least one token, and the continuation.
          done: told how many were scored since it was last called.

        Raises:
          ValueError: an empty context or continuation, one that is longer than the
            model reads, a token outside the vocabulary, or logits that are not finite.
        """
        arrays = [tuple(np.asarray(x, np.int32) for x in pair) for pair in pairs]
        self._check(arrays)
        longest = self.max_length + 1
        texts = [np.concatenate(pair)[-longest:] for pair in arrays]
        self.cut += sum(len(a) + len(b) > longest for a, b in arrays)
        needed = np.array([len(text) - 1 for text in texts], np.int64)
        sizes = self._sizes[np.searchsorted(self._sizes, needed)]
        scores: list[Any] = [None] * len(pairs)
        for size in np.unique(sizes)[::-1]:  # what needs the most memory comes first
            places = np.flatnonzero(sizes == size)
            for start in range(0, len(places), self._rows):
                some = places[start : start + self._rows].tolist()
                counts = [len(pairs[k][1]) for k in some]
                values = self._run([texts[k] for k in some], counts, int(size))
                for k, score in zip(some, values, strict=True):
                    scores[k] = score
                done(len(some))
        return scores

    def _check(self, pairs: Sequence[tuple[np.ndarray, ...]]) -> None:
        cfg = self._model.cfg
        for number, (name, side) in enumerate((("context", 0), ("continuation", 1))):
            check_tokens(cfg, name, [pair[side] for pair in pairs])
            sizes = [len(pair[side]) for pair in pairs]
            if number and max(sizes, default=0) > self.max_length:
                place = int(np.argmax(sizes))
                raise ValueError(
                    f"continuation {place} has {sizes[place]} tokens, and the model "
                    f"reads {self.max_length}; raise max_length, or shorten it"
                )

    def _run(
        self, texts: Sequence[np.ndarray], counts: Sequence[int], size: int
    ) -> list[Score]:
        """The scores of the last `counts` tokens of some texts, in one batch."""
        shape = (self._rows, size)
        names = ("tokens", "targets", "segment_ids")
        batch = {name: np.zeros(shape, np.int32) for name in names}
        batch["weights"] = np.zeros(shape, np.float32)
        for b, (text, count) in enumerate(zip(texts, counts, strict=True)):
            n = len(text) - 1
            batch["tokens"][b, :n], batch["targets"][b, :n] = text[:-1], text[1:]
            batch["segment_ids"][b, :n] = 1
            batch["weights"][b, n - count : n] = 1
        batch["positions"] = np.broadcast_to(np.arange(size, dtype=np.int32), shape)
        place = axes_lib.batch_sharding(self._mesh, batch)
        with mesh_lib.use(self._mesh):
            nll_B, right_B = self._score(self._params, jax.device_put(batch, place))
        nll, right = np.asarray(nll_B)[: len(texts)], np.asarray(right_B)
        check_finite(self._model, self._params, np.isfinite(nll))
        return [
            Score(-float(nll[b]), bool(right[b] == count))
            for b, count in enumerate(counts)
        ]

    def _scored(self, params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        """Per row, of the targets that have weight: the negative log-likelihood, and
        how many are the likeliest token."""
        model = self._model
        out, _ = forward(model, variables(params), batch, method="outputs")
        return blocked_evaluation(
            out.x_BTM,
            out.table_VM,
            out.bias_V,
            batch["targets"],
            batch["weights"],
            model.layout.loss_block,
            out.softcap,
        )
