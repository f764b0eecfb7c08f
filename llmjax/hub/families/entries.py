"""Entries that go together: the weight and bias of one module at the hub."""

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
    inputs = [
        (
            Entry(f"{name}.weight", f"{leaf}/{ours}/kernel", "(N H) D -> D N H"),
            Entry(f"{name}.bias", f"{leaf}/{ours}/bias", "(N H) -> N H"),
        )
        for name, ours in ((query, "query"), (key, "key"), (value, "value"))
    ]
    return (
        *(entry for pair in inputs for entry in pair),
        Entry(f"{out}.weight", f"{leaf}/out/kernel", "D (N H) -> N H D"),
        Entry(f"{out}.bias", f"{leaf}/out/bias", "D -> D"),
    )


def interleaved_block(layer: str, attention: str) -> tuple[Entry, ...]:
    """A block with two norms whose queries, keys and values are one matrix, a head's
    three beside each other (GPT-NeoX)."""
    fused = f"{layer}.{attention}.query_key_value"
    ours = tuple(f"attention/{name}" for name in ("query", "key", "value"))
    kernels = tuple(f"{leaf}/kernel" for leaf in ours)
    biases = tuple(f"{leaf}/bias" for leaf in ours)
    out = f"{layer}.{attention}.dense"
    return (
        *norm(f"{layer}.input_layernorm", "attention_norm"),
        Entry(f"{fused}.weight", kernels, "(N p H) D -> p D N H"),
        Entry(f"{fused}.bias", biases, "(N p H) -> p N H"),
        Entry(f"{out}.weight", "attention/out/kernel", "D (N H) -> N H D"),
        Entry(f"{out}.bias", "attention/out/bias", "D -> D"),
        *norm(f"{layer}.post_attention_layernorm", "mlp_norm"),
        *linear(f"{layer}.mlp.dense_h_to_4h", "mlp/up"),
        *linear(f"{layer}.mlp.dense_4h_to_h", "mlp/down"),
    )
