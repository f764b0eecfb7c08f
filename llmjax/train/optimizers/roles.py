"""Roles of weights, read off their logical axes (`parallel.axes`)."""

from llmjax.parallel.axes import Axes

# of matrices in a layer, `L` and `E` counting them
LAYER_AXES = {"L", "E", "D", "F", "N", "K", "H", "R"}
# a number for each feature of the heads, or for each head at each distance
OF_HEADS = (("N", "H"), ("K", "H"), (None, "N"))


def is_vector(axes: Axes) -> bool:
    """Whether a leaf adds to or scales features: a bias, a scale, an attention sink.

    All others are matrices or tables, which multiply features or are looked up.
    """
    own = tuple(axis for axis in axes if axis not in ("L", "E"))
    return len(own) <= 1 or own in OF_HEADS


def is_layer_matrix(axes: Axes) -> bool:
    """Whether a leaf is a kernel inside the layers; those of routers are not."""
    return not is_vector(axes) and LAYER_AXES.issuperset(axes)


def merge_heads(shape: tuple[int, ...], axes: Axes) -> tuple[tuple[int, ...], Axes]:
    """Shape and axes with a leaf's heads and their size as one axis: N, H as N.

    The matrix that a projection is, where an algorithm looks for one.
    """
    for i in range(len(axes) - 1):
        if axes[i] in ("N", "K") and axes[i + 1] == "H":
            size = shape[i] * shape[i + 1]
            return (*shape[:i], size, *shape[i + 2 :]), axes[: i + 1] + axes[i + 2 :]
    return shape, axes


def moves_by_its_gradient(axes: Axes) -> bool:
    """Whether a leaf is a router's balance, whose gradient is its move."""
    return axes[-1:] == ("E_balance",)


def may_grow(axes: Axes) -> bool:
    """Whether new rows may be added at a leaf's end: tokens, learned positions."""
    return axes[:1] in (("V",), ("T",))
