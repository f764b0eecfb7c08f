"""Hard negatives: documents that are near to a query and do not belong to it."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 8192  # documents whose similarities to some queries exist at a time
QUERIES = 256


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which documents become negatives of a query.

    Attributes:
      count: how many.
      first, last: ranks among the documents that don't belong to the query, from 1.
      margin: by how much less than the positive's the cosine must be.
      relative_margin: the same as a share of the positive's.
      sampling: "top": the nearest that are left; "random": any of them.
      seed: of "random".
    """

    count: int = 1
    first: int = 1
    last: int = 50
    margin: float = 0.0
    relative_margin: float = 0.0
    sampling: Literal["top", "random"] = "top"
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.first <= self.last:
            raise ValueError(
                f"the ranks {self.first} to {self.last} are none; accepted: from 1 on, "
                "the first not above the last"
            )
        if self.count < 1 or self.relative_margin >= 1:
            raise ValueError(
                f"{self.count} negatives at a relative margin of "
                f"{self.relative_margin}; accepted: 1 or more, and below 1"
            )


def nearest(
    queries_QD: np.ndarray, docs_ND: np.ndarray, count: int, block: int = BLOCK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The nearest documents of each query: cosines and places [q, count], some queries
    at a time; of equally near ones the first.

    Args:
      queries_QD, docs_ND: float32, of length 1.
      count: how many; of fewer documents all, and the place -1 beyond them.
      block: documents that are compared at a time.
    """
    N = len(docs_ND)
    block = min(block, N)
    pieces = -(-N // block)
    padded = np.zeros((pieces * block, docs_ND.shape[1]), np.float32)
    padded[:N] = docs_ND
    on_device = jnp.asarray(padded.reshape(pieces, block, -1))
    for start in range(0, len(queries_QD), QUERIES):
        rows = np.zeros((QUERIES, queries_QD.shape[1]), np.float32)
        own = queries_QD[start : start + QUERIES]
        rows[: len(own)] = own
        cosines, places = _nearest(jnp.asarray(rows), on_device, N, count)
        yield np.asarray(cosines)[: len(own)], np.asarray(places)[: len(own)]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _nearest(
    rows_QD: jax.Array, docs_PbD: jax.Array, N: int, count: int
) -> tuple[jax.Array, jax.Array]:
    """`nearest` of one part of the queries, block after block of documents."""
    Q, block = len(rows_QD), docs_PbD.shape[1]

    def body(best, inputs):
        docs_bD, start = inputs
        place_b = start + jnp.arange(block)
        cosine_Qb = jnp.matmul(rows_QD, docs_bD.T, precision="highest")
        cosine_Qb = jnp.where(place_b < N, cosine_Qb, -jnp.inf)
        cosines = jnp.concatenate([best[0], cosine_Qb], axis=1)
        places = [best[1], jnp.broadcast_to(place_b, (Q, block))]
        top, order = jax.lax.top_k(cosines, count)
        new = jnp.take_along_axis(jnp.concatenate(places, axis=1), order, axis=1)
        return (top, new), None

    none = jnp.full((Q, count), -jnp.inf), jnp.full((Q, count), -1)
    starts = jnp.arange(len(docs_PbD)) * block
    (cosines, places), _ = jax.lax.scan(body, none, (docs_PbD, starts))
    return cosines, places


def mine(
    queries_QD: np.ndarray,
    docs_ND: np.ndarray,
    positives: Sequence[int],
    belonging: Sequence[frozenset[int]],
    choice: Choice,
    start: int = 0,
    block: int = BLOCK,
) -> Iterator[list[int]]:
    """The negatives of each query, as places of documents, the nearest first.

    Args:
      queries_QD, docs_ND: float32, of length 1.
      positives: the place of each query's own document.
      belonging: of each query the places of all documents that belong to it.
      choice: which ones.
      start: the number of the first query, on which random choices depend.
      block: see `nearest`.
    """
    most = max(map(len, belonging), default=0)
    row = 0
    wanted = min(choice.last + most, len(docs_ND))
    for cosines_qk, places_qk in nearest(queries_QD, docs_ND, wanted, block):
        for cosine_k, place_k in zip(cosines_qk, places_qk, strict=True):
            own = float(queries_QD[row] @ docs_ND[positives[row]])
            ranked = [
                (cosine, place)
                for cosine, place in zip(
                    cosine_k.tolist(), place_k.tolist(), strict=True
                )
                if place >= 0 and place not in belonging[row]
            ]
            limit = min(own - choice.margin, own - abs(own) * choice.relative_margin)
            chosen = [
                place
                for cosine, place in ranked[choice.first - 1 : choice.last]
                if cosine <= limit or not (choice.margin or choice.relative_margin)
            ]
            if choice.sampling == "random" and len(chosen) > choice.count:
                rng = np.random.default_rng([choice.seed, start + row])
                drawn = rng.choice(len(chosen), choice.count, replace=False)
                chosen = [chosen[k] for k in sorted(drawn.tolist())]
            yield chosen[: choice.count]
            row += 1
