"""Packed = unpacked for every pattern x position x implementation that claims segments.

    python -m tests.proofs.packing [--quick]

One layer, logits and gradients of every weight: texts side by side in rows against each
text alone in a row, by the reference implementation. About 10 minutes on two cores; one
with --quick, which takes every fifth pair of pattern and position, and leaves out
splash, which a CPU interprets. The default tests hold each pattern, position and
implementation, not each combination.
"""

import argparse
import itertools
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax import config
from llmjax.models.attention.implementations import CAPABILITIES
from llmjax.models.heads.language import LanguageModel

WIDTH, V = 128, 64  # the smallest row that every implementation takes
LENGTHS = (50, 30, 48, 70, 9, 40)
ROWS = [(0, 1, 2), (3, 4, 5)]
ALONE = [(i,) for i in range(len(LENGTHS))]
PATTERNS: dict[str, Any] = {
    "global": config.Global(),
    "window": config.SlidingWindow(7),
    "block sparse": config.BlockSparse(4, 2, 3),
    "prefix": config.Global(),
}
POSITIONS: dict[str, Any] = {
    "none": config.NoPositions(),
    "learned": config.Learned(WIDTH),
    "sinusoidal": config.Sinusoidal(),
    "rotary": config.Rotary(),
    "alibi": config.Alibi(),
    "relative bias": config.RelativeBias(16, 40),
    "transformer xl": config.TransformerXL(),
    "disentangled": config.Disentangled(8, 64),
}
IMPLEMENTATIONS = {
    "einsum": config.EinsumAttention(),
    "blocked": config.BlockedAttention(32),
    "chunked": config.ChunkedAttention(32),
    "dot_product": config.DotProductAttention(),
    "splash": config.SplashAttention(),
}
ENCODERS = ("transformer xl", "disentangled")


def place(rows) -> tuple[dict[str, jax.Array], list[tuple[int, slice]]]:
    """A batch with these texts in these rows, and where each text lies."""
    batch = {
        k: np.zeros((len(rows), WIDTH), np.int32)
        for k in ("tokens", "positions", "segment_ids", "prefix")
    }
    places = {}
    for b, texts in enumerate(rows):
        start = 0
        for number, i in enumerate(texts):
            at = slice(start, start + LENGTHS[i])
            text = np.random.default_rng(i)
            batch["tokens"][b, at] = text.integers(V, size=LENGTHS[i])
            batch["positions"][b, at] = np.arange(LENGTHS[i])
            batch["segment_ids"][b, at] = number + 1
            batch["prefix"][b, start : start + 5 + i] = 1
            places[i], start = (b, at), at.stop
    arrays = {k: jnp.asarray(v) for k, v in batch.items()}
    arrays["prefix"] = arrays["prefix"] > 0
    return arrays, [places[i] for i in range(len(LENGTHS))]


def run(cfg, attention, params, rows, prefix):
    """Each text's logits, and the gradients of one loss over all texts."""
    batch, places = place(rows)
    if not prefix:
        batch.pop("prefix")
    weights = np.zeros((len(rows), WIDTH, V), np.float32)
    for i, at in enumerate(places):
        draw = np.random.default_rng(10 + i)
        weights[at] = draw.standard_normal((LENGTHS[i], V))
    model = LanguageModel(cfg, config.LayoutConfig(attention=attention))

    def loss(params):
        logits, _ = model.apply({"params": params}, batch)
        return jnp.sum(logits * weights), logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    return [logits[at] for at in places], grads


def asked(pattern, positions) -> set[str]:
    """What the combination asks of an implementation, in its table's words."""
    wanted = {"segments"} | {
        "window": {"window"},
        "block sparse": {"blocks"},
        "prefix": {"prefix"},
    }.get(pattern, set())
    if positions in ("alibi", "relative bias"):
        return wanted | {"position bias"}
    return wanted | {"content bias"} if positions in ENCODERS else wanted


def error(got, want) -> float:
    """The largest difference, relative to the largest value of its leaf."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(
        float(jnp.abs(a - b).max() / (jnp.abs(b).max() + 1e-9)) for a, b in pairs
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some combinations")
    quick = parser.parse_args().quick
    jax.config.update("jax_disable_most_optimizations", quick)
    combinations = list(itertools.product(PATTERNS, POSITIONS))
    # 5 and the 8 positions have no common divisor: all of both kinds come up
    combinations = combinations[::5] if quick else combinations
    implementations = dict(IMPLEMENTATIONS)
    if quick:
        del implementations["splash"]
    worst = 0.0
    for pattern, positions in combinations:
        if pattern == "prefix" and positions in ENCODERS:
            continue  # an encoder sees all of its text as it is
        spec = config.LayerSpec(PATTERNS[pattern])
        cfg = config.ModelConfig(
            architecture="encoder" if positions in ENCODERS else "decoder",
            vocab_size=V,
            d_model=16,
            d_ff=16,
            groups=(config.Group(1, (spec,)),),
            num_heads=2,
            head_dim=8,
            positions=POSITIONS[positions],
        )
        batch, _ = place(ALONE)
        shapes = jax.eval_shape(LanguageModel(cfg).init, jax.random.key(0), batch)
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda a, rng=rng: jnp.float32(0.3 * rng.standard_normal(a.shape)),
            nn.unbox(shapes)["params"],
        )
        prefix = pattern == "prefix"
        want = run(cfg, IMPLEMENTATIONS["einsum"], params, ALONE, prefix)
        line = f"{pattern:14s}{positions:16s}"
        for name, attention in implementations.items():
            if not asked(pattern, positions) <= CAPABILITIES[name]:
                line += f"{name} -          "
                continue
            off = error(run(cfg, attention, params, ROWS, prefix), want)
            worst = max(worst, off)
            line += f"{name} {off:.1e}  "
        print(line, flush=True)
    print(f"largest {worst:.1e}, allowed 2.0e-05")
    sys.exit(worst > 2e-5)


if __name__ == "__main__":
    main()
