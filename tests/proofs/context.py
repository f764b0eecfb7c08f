"""Compiles attention over a cut sequence for TPU chips, forward and backward.

    python tests/proofs/context.py [--topology=v5e:4x4]

For each context and implementation a row: how often the compiled program sends arrays,
by kind; its temporary bytes; Pallas calls; seconds to compile. Needs `libtpu`, and no
TPU. Exits 1 if the ring gathers anything of many heads, if Ulysses gathers activations,
or if splash sums the gradients of keys without scattering them.
"""

import argparse
import collections
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from llmjax.config import (
    ChunkedAttention,
    EinsumAttention,
    Gather,
    LayoutConfig,
    Ring,
    Ulysses,
)
from llmjax.config import SplashAttention as Splash
from llmjax.models.attention.implementations import attend
from llmjax.models.attention.mask import Mask
from llmjax.parallel.axes import partition_spec
from llmjax.parallel.mesh import make_mesh, use

B, T, N, K, H = 4, 2048, 16, 8, 128
CASES = {  # context, implementation, mask, packed rows
    "gather, splash": (Gather(), Splash(), Mask(causal=True), True),
    "gather, splash, fused": (
        Gather(),
        Splash(fused_backward=True),
        Mask(causal=True),
        False,
    ),
    "gather, splash, window": (Gather(), Splash(), Mask(causal=True, window=300), True),
    "gather, splash, encoder": (Gather(), Splash(), Mask(), True),
    "gather, chunked": (Gather(), ChunkedAttention(256), Mask(causal=True), True),
    "ulysses, splash": (Ulysses(), Splash(), Mask(causal=True), True),
    "ulysses, einsum": (Ulysses(), EinsumAttention(), Mask(causal=True), True),
    "ring": (Ring(), ChunkedAttention(512), Mask(causal=True), True),
    "ring, window": (
        Ring(),
        ChunkedAttention(512),
        Mask(causal=True, window=300),
        True,
    ),
}
KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


def program(case, devices):
    """The compiled gradient of a sum of squares, and the seconds that took."""
    context, kind, mask, packed = case
    layout = LayoutConfig(
        data=len(devices) // 8, sequence=4, tensor=2, context=context, attention=kind
    )
    mesh = make_mesh(layout, devices)

    def loss(q, k, v, segments):
        here = mask
        if packed:
            here = mask.with_(q_segments_BT=segments, k_segments_BS=segments)
        return jnp.sum(attend(layout, q, k, v, here).astype(jnp.float32) ** 2)

    def operand(shape, dtype=jnp.bfloat16):
        spec = partition_spec(("act_B", "act_T", "act_N", None)[: len(shape)], "x")
        where = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    q, k = operand((B, T, N, H)), operand((B, T, K, H))
    start = time.perf_counter()
    with use(mesh):
        gradient = jax.jit(
            jax.grad(loss, (0, 1, 2)),
            out_shardings=(q.sharding, k.sharding, k.sharding),
        )
        traced = gradient.trace(q, k, k, operand((B, T), jnp.int32))
        compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    return compiled, time.perf_counter() - start


def sent(text: str) -> dict[str, int]:
    """How many arrays of heads, in at least four dimensions, go by each kind."""
    found = re.findall(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", text)
    large = [kind for shape, kind in found if re.search(r"\[\d+(,\d+){3,}\]", shape)]
    return collections.Counter(large)


def wrong(name: str, sent: dict[str, int]) -> str:
    """What a row must not show, if it does."""
    gathers = sent["all-gather"] + sent["all-reduce"]
    if name.startswith("ring") and (gathers or not sent["collective-permute"]):
        return "the ring gathers"
    if name.startswith("ulysses") and (gathers or not sent["all-to-all"]):
        return "Ulysses gathers"
    if name.startswith("gather, splash") and sent["all-reduce"]:
        return "gradients are summed whole"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name=args.topology)
    print(f"{'':24}" + "".join(f"{k:>20}" for k in (*KINDS, "MB", "Pallas", "s")))
    failed = []
    for name, case in CASES.items():
        if not name.startswith(args.only):
            continue
        compiled, seconds = program(case, topology.devices)
        text = compiled.as_text()
        counts = sent(text)
        kernels = text.count('custom_call_target="tpu_custom_call"')
        megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
        cells = [*(counts[kind] for kind in KINDS), round(megabytes, 1), kernels]
        cells = [*cells, round(seconds)]
        print(f"{name:24}" + "".join(f"{c:>20}" for c in cells), flush=True)
        failed += [f"{name}: {wrong(name, counts)}"] * bool(wrong(name, counts))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
