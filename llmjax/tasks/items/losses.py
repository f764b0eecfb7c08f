"""The loss of SASRec and gSASRec: an item against others that the user never had."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def power(negatives: int, items: int, calibration: float) -> float:
    """The power of the right item's probability (Petrov & Macdonald 2023, 5).

    beta = alpha (t (1 - 1 / alpha) + 1 / alpha), alpha = negatives / (items - 1): 1 of
    t = 0, which is the binary cross entropy of SASRec.
    """
    alpha = negatives / max(1, items - 1)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def sampled(
    x_BTM: Float[Array, "B T M"],
    table_VM: Float[Array, "V M"],
    targets_BT: Int[Array, "B T"],
    negatives_BTK: Int[Array, "B T K"],
    beta: float,
) -> Float[Array, "B T"]:
    """-(beta log s(right) + sum of log(1 - s(wrong))), s the sigmoid of x . table."""
    table_VM = table_VM.astype(x_BTM.dtype)
    right_BT = jnp.einsum("BTM,BTM->BT", x_BTM, table_VM[targets_BT])
    wrong_BTK = jnp.einsum("BTM,BTKM->BTK", x_BTM, table_VM[negatives_BTK])
    right_BT, wrong_BTK = (s.astype(jnp.float32) for s in (right_BT, wrong_BTK))
    wrong_BT = jnp.sum(jax.nn.log_sigmoid(-wrong_BTK), axis=-1)
    return -(beta * jax.nn.log_sigmoid(right_BT) + wrong_BT)


def negatives(
    rng: np.random.Generator, items: np.ndarray, seen: np.ndarray, shape: tuple
) -> np.ndarray:
    """Items that a user never had, each as likely as another, int32 of a shape.

    Args:
      rng: of the example.
      items: ids of all, sorted.
      seen: ids that the user had, sorted, each once.
      shape: of the result.
    """
    places = np.searchsorted(items, seen)
    left = len(items) - len(places)
    if not left:  # nothing but what the user had
        return rng.choice(items, shape).astype(np.int32)
    # the k-th of those that are left lies behind as many seen ones as are before it
    before = places - np.arange(len(places))
    drawn = rng.integers(0, left, shape)
    return items[drawn + np.searchsorted(before, drawn, "right")].astype(np.int32)
