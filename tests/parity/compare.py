"""Outputs of two sides, and the errors between them."""

import dataclasses

import numpy as np

from tests.parity.draws import Inputs

TOLERANCE = 1e-5  # relative to the largest value
# relative to the largest gradient: a tensor's gradient is compared with at least this,
# because where it is 0 (a key's bias before a softmax) only rounding is left
FLOOR = 0.1
NEAR_TIE = 1e-4  # relative to the largest logit: a choice that rounding may turn


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of one model for one batch; 0 at padding.

    Attributes:
      logits: [B, T, V]; [B, T] from a discriminator; [B, C] from a classifier of texts;
        None from a bare model.
      hidden: last hidden states [B, T, D].
      pooled: [B, D] from a bare model with a pooler, or None.
      gradients: hub name -> gradient of sum(cotangent * (logits, else hidden, and
        pooled)).
      decoded: greedy continuations [B, M] of the prompts, or None.
      gaps: best logit minus the second at each of them, relative to the largest; or
        None.
    """

    logits: np.ndarray | None
    hidden: np.ndarray
    pooled: np.ndarray | None
    gradients: dict[str, np.ndarray]
    decoded: np.ndarray | None = None
    gaps: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Error:
    """The difference of two sides in one quantity.

    Attributes:
      size: largest difference, relative to the largest value of the reference.
      where: the tensor, or an index.
      tolerance: largest `size` accepted.
    """

    size: float
    where: str
    tolerance: float

    @property
    def fine(self) -> bool:
        return self.size <= self.tolerance  # False for NaN, too


def blank(value: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
    """The value with 0 at padding; what is of a whole row, [B, D], has none."""
    if value.shape[:2] != segment_ids.shape:
        return value
    real = (segment_ids > 0).reshape(segment_ids.shape + (1,) * (value.ndim - 2))
    return np.where(real, value, np.float32(0))


def blank_layers(
    values: dict[str, np.ndarray], inputs: Inputs
) -> dict[str, np.ndarray]:
    """Activations of all layers with 0 where the state, or the query, is padding."""
    out = {}
    for name, value in values.items():
        encoder = name.startswith("encoder_")
        segment_ids = inputs.encoder_segment_ids if encoder else inputs.segment_ids
        assert segment_ids is not None
        real_BT = segment_ids > 0
        maps = name.endswith("attentions")  # [L, B, N, T, S]; else [L, B, T, D]
        streams = value.shape[3 if maps else 2] // real_BT.shape[1]
        real_BT = np.tile(real_BT, (1, streams))
        real = real_BT[None, :, None, :, None] if maps else real_BT[None, ..., None]
        out[name] = np.where(real, value, np.float32(0))
    return out


def compare_layers(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> dict[str, Error]:
    """The errors of activations of all layers, 0 at padding on both sides."""
    errors = {}
    for name in ours.keys() | theirs.keys():
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None:
            where = "ours" if b is None else "theirs"
            errors[name] = Error(float("inf"), f"only {where}", TOLERANCE)
        else:
            errors[name] = Error(distance(a, b), _largest(a, b), TOLERANCE)
    return errors


def distance(ours: np.ndarray, theirs: np.ndarray, at_least: float = 0.0) -> float:
    """The largest difference, relative to the largest of theirs or `at_least`.

    Infinite for unlike shapes, NaN for NaNs.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    scale = max(float(np.abs(theirs).max()), at_least)
    largest = float(np.abs(ours.astype(np.float64) - theirs).max())
    return largest / scale if scale else largest


def compare(ours: Outputs, theirs: Outputs) -> dict[str, Error]:
    """The errors of every quantity that the reference has."""
    errors = {}
    for name in ("logits", "hidden", "pooled"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if b is not None:
            size = float("inf") if a is None else distance(a, b)
            errors[name] = size, _largest(a, b)
    errors["gradients"] = _gradients(ours.gradients, theirs.gradients)
    if theirs.decoded is not None:
        errors["decode"] = _decoded(ours.decoded, theirs)
    return {
        name: Error(size, where, TOLERANCE) for name, (size, where) in errors.items()
    }


def unread(grad: np.ndarray) -> float:
    """The error of lacking a gradient: none if nothing depends on the tensor."""
    return float("inf") if grad.any() else 0.0


def _gradients(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> tuple[float, str]:
    floor = FLOOR * max(float(np.abs(g).max()) for g in theirs.values())
    sizes = {
        # a tensor that the model never reads may be unknown to us
        name: distance(ours[name], grad, floor) if name in ours else unread(grad)
        for name, grad in theirs.items()
    }
    worst = max(sizes, key=lambda name: (np.isnan(sizes[name]), sizes[name]))
    return sizes[worst], worst if worst in ours else f"{worst} is missing"


def _decoded(ours: np.ndarray | None, theirs: Outputs) -> tuple[float, str]:
    """The fraction of tokens that differ, each row up to its first near tie."""
    assert theirs.decoded is not None and theirs.gaps is not None
    if ours is None or ours.shape != theirs.decoded.shape:
        return float("inf"), "shape"
    counted = np.cumprod(theirs.gaps > NEAR_TIE, axis=1).astype(bool)
    wrong = (ours != theirs.decoded) & counted
    first = np.argwhere(wrong)
    return float(wrong.mean()), f"row, step {first[0].tolist()}" if len(first) else ""


def _largest(a: np.ndarray | None, b: np.ndarray) -> str:
    if a is None or a.shape != b.shape:
        return f"shape {None if a is None else a.shape}, expected {b.shape}"
    index = np.unravel_index(np.abs(a - b).argmax(), a.shape)
    return str([int(i) for i in index])
