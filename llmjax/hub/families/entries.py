"""Entries that come together: the weight and bias of one module at the hub."""

from llmjax.hub.table import Entry


def linear(name: str, leaf: str) -> tuple[Entry, ...]:
    """A matrix of two axes, transposed as torch keeps it, and its bias."""
    return (
        Entry(f"{name}.weight", f"{leaf}/kernel", "F D -> D F"),
        Entry(f"{name}.bias", f"{leaf}/bias", "F -> F"),
    )


def norm(name: str, leaf: str) -> tuple[Entry, ...]:
    """A norm's scale and bias."""
    return (
        Entry(f"{name}.weight", f"{leaf}/scale", "D -> D"),
        Entry(f"{name}.bias", f"{leaf}/bias", "D -> D"),
    )


def attention(
    query: str, key: str, value: str, out: str, leaf: str = "attention"
) -> tuple[Entry, ...]:
    """The four projections of an attention, by their whole names."""
    into = [
        (
            Entry(f"{name}.weight", f"{leaf}/{ours}/kernel", "(N H) D -> D N H"),
            Entry(f"{name}.bias", f"{leaf}/{ours}/bias", "(N H) -> N H"),
        )
        for name, ours in ((query, "query"), (key, "key"), (value, "value"))
    ]
    return (
        *(entry for pair in into for entry in pair),
        Entry(f"{out}.weight", f"{leaf}/out/kernel", "D (N H) -> N H D"),
        Entry(f"{out}.bias", f"{leaf}/out/bias", "D -> D"),
    )
