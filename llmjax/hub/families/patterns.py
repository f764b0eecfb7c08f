"""Layers one by one, as config.json's `layer_types` lists them, and scanned groups."""

from collections.abc import Mapping, Sequence

from llmjax.config import Global, Group, LayerSpec, SlidingWindow

FULL, SLIDING = "full_attention", "sliding_attention"
LONGEST = 32  # layers of a pattern; the hub's have at most 8


def groups(layers: Sequence[LayerSpec]) -> tuple[Group, ...]:
    """Groups of these layers: the pattern that covers most, then those of the rest.

    The 26 layers of Gemma 3, five local to one global, are four times six and two.
    """
    grouped = []
    while layers:
        size = max(range(1, LONGEST + 1), key=lambda n: (_covered(layers, n) - n, -n))
        covered = _covered(layers, size)
        grouped.append(Group(covered // size, tuple(layers[:size])))
        layers = layers[covered:]
    return tuple(grouped)


def _covered(layers: Sequence[LayerSpec], size: int) -> int:
    """Number of layers in whole repeats of the first `size` of them."""
    covered = size
    while layers[covered : covered + size] == layers[:size]:
        covered += size
    return covered


def layers(groups: Sequence[Group]) -> list[LayerSpec]:
    """The layers of groups, one by one."""
    return [spec for group in groups for spec in group.pattern * group.repeat]


def windowed(window: int | None) -> LayerSpec:
    """A layer whose queries see `window` keys with their own; None: all."""
    return LayerSpec() if window is None else LayerSpec(SlidingWindow(window))


def from_types(
    types: Sequence[str], count: int, specs: Mapping[str, LayerSpec]
) -> tuple[Group, ...]:
    """Groups of `layer_types`.

    Args:
      types: `layer_types` of config.json.
      count: `num_hidden_layers` of config.json.
      specs: type -> layer, for each type of the family.

    Raises:
      ValueError: another type, or another number of layers.
    """
    if len(types) != count:
        raise ValueError(
            f"layer_types has {len(types)} layers and num_hidden_layers is {count}; "
            "they must agree"
        )
    for kind in types:
        if kind not in specs:
            raise ValueError(
                f"layer_types has {kind!r}; accepted: {', '.join(map(repr, specs))}"
            )
    return groups([specs[kind] for kind in types])


def to_types(groups: Sequence[Group]) -> list[str]:
    """`layer_types` of groups: a layer with a window is a sliding one."""
    windows = (isinstance(spec.pattern, SlidingWindow) for spec in layers(groups))
    return [SLIDING if sliding else FULL for sliding in windows]


def window(groups: Sequence[Group]) -> int | None:
    """The one window of the layers that have one; None: no layer has.

    Raises:
      ValueError: windows that differ, or a pattern that the hub's families lack.
    """
    patterns = {spec.pattern for spec in layers(groups)} - {Global()}
    if not patterns:
        return None
    first, *others = sorted(patterns, key=repr)
    if others or not isinstance(first, SlidingWindow):
        raise ValueError(
            f"the layers' patterns are {', '.join(p.kind for p in patterns)}; the "
            "hub's families have one sliding window besides global attention"
        )
    return first.window
