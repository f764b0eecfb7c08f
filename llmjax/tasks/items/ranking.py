"""The rank of an item among all, and metrics of ranks and lists, with intervals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RESAMPLES = 1000  # of a bootstrap


def rank(logits: jax.Array, item: jax.Array) -> jax.Array:
    """The place of an item among all, from 1 on, int32 [...].

    Of equal scores the item is the last, so that a model that knows nothing gains
    nothing.

    Args:
      logits: [..., V]; -inf for those that are no items.
      item: int [...].
    """
    own = jnp.take_along_axis(logits, item[..., None], axis=-1)
    # not "less" rather than "greater or equal": of a NaN the rank is the last
    ahead = ~(logits < own)
    return jnp.sum(ahead, axis=-1, dtype=jnp.int32)


def gains(rank: Any, top: int) -> dict[str, Any]:
    """`ndcg@k`, `hr@k` (hit rate) and `mrr` of ranks, of one right item each."""
    near = rank <= top
    return {
        f"ndcg@{top}": jnp.where(near, 1 / jnp.log2(rank + 1.0), 0.0),
        f"hr@{top}": near.astype(jnp.float32),
        "mrr": 1.0 / rank,
    }


def report(ranks: np.ndarray, chosen: np.ndarray, items: int, top: int) -> dict:
    """Means over users with 95 % intervals, and how many items lists have.

    Percentiles of `RESAMPLES` bootstrap samples of the users (Efron 1979): drawing
    users anew is drawing their ranks anew, of which only counts are read.

    Args:
      ranks: int [users], of the right items.
      chosen: bool [V], items that are in some user's list.
      items: how many there are.
      top: length of the lists.
    """
    values, counts = np.unique(ranks, return_counts=True)
    each = {name: np.asarray(v) for name, v in gains(values, top).items()}
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(ranks), counts / len(ranks), RESAMPLES) / len(ranks)
    out: dict[str, Any] = {"users": len(ranks)}
    for name, gain in each.items():
        out[name] = float(gain @ counts / len(ranks))
        ends = np.percentile(drawn @ gain, (2.5, 97.5))
        out[f"{name}_interval"] = ends.tolist()
    out["coverage"] = float(chosen.sum() / items)
    return out


def describe(report: dict[str, Any], top: int) -> str:
    """A report in a line."""
    words = {f"ndcg@{top}": f"NDCG@{top}", f"hr@{top}": f"HR@{top}", "mrr": "MRR"}
    parts = []
    for name, word in words.items():
        low, high = report[f"{name}_interval"]
        parts.append(f"{word} {report[name]:.4f} [{low:.4f}, {high:.4f}]")
    return (
        f"{', '.join(parts)} over {report['users']:,} users; {report['coverage']:.1%} "
        f"of the items are in a list of {top}"
    )
