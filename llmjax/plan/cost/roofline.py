"""Seconds of one step predicted from its compiled program; MFU and price from them."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from llmjax.config import RunConfig
from llmjax.plan.cost.machines import machine
from llmjax.plan.cost.pallas import KernelCost
from llmjax.plan.cost.timeline import play
from llmjax.plan.cost.topologies import Topology
from llmjax.plan.hlo.collectives import Collective, Devices, collectives
from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.module import HloModule, Instruction, parse
from llmjax.plan.hlo.summary import Summary, summarize
from llmjax.train.metrics import flops


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds of a step's time on one device, in seconds.

    Attributes:
      compute: the model's FLOPs, causal attention counted as half, at the peak rate of
        the types that layout.quantization multiplies in.
      hbm: bytes that instructions read and write, at the memory's bandwidth.
      near: mesh axis -> its transfers within a slice, or a host of GPUs.
      far: transfers across slices, or hosts.
      host: transfers to and from the host's memory.
      networks: names of the networks of `near` and `far`: ("ici", "dcn"), ("nvlink",
        "network").
    """

    compute: float
    hbm: float
    near: dict[str, float]
    far: float
    host: float
    networks: tuple[str, str]

    @property
    def rows(self) -> dict[str, float]:
        """Each bound by its name: "compute", "nvlink fsdp", ..."""
        near, far = self.networks
        axes = {f"{near} {axis}": seconds for axis, seconds in self.near.items()}
        times = {"compute": self.compute, "hbm": self.hbm, **axes}
        return {**times, far: self.far, "host": self.host}

    @property
    def binds(self) -> str:
        """Name of the longest: a step cannot be faster."""
        near, far = self.networks
        times = {"compute": self.compute, "hbm": self.hbm, far: self.far}
        times |= {near: sum(self.near.values()), "host": self.host}
        return max(times, key=lambda name: times[name])


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted time of a step.

    Attributes:
      compiler_seconds: instructions of the compiler: on TPUs its cycles at the chip's
        clock, on GPUs the cost model of `instructions`.
      pallas_seconds: Pallas kernels by the cost model of `pallas`; fused attention on
        GPUs by that of `attention`.
      exposed_seconds: transfers that no compute hides, by `timeline`.
      step_seconds: the sum of the three.
      waits: exposed seconds by (kind, axis, network).
      uncounted: kernels without a cost model; they count as no time.
      largest: (op_name, source, opcode, seconds per step), the longest first.
      mfu, mfu_causal: share of the chips' bfloat16 peak, with the FLOPs of
        `llmjax.train.metrics.flops`.
      dollars_per_billion_tokens: at the price of a chip-hour.
    """

    roofline: Roofline
    summary: Summary
    collectives: tuple[Collective, ...]
    kernels: tuple[KernelCost, ...]
    compiler_seconds: float
    pallas_seconds: float
    exposed_seconds: float
    step_seconds: float
    waits: dict[tuple[str, str, str], float]
    uncounted: tuple[str, ...]
    largest: tuple[tuple[str, str, str, float], ...]
    mfu: float
    mfu_causal: float
    tokens_per_second_per_chip: float
    dollars_per_billion_tokens: float


def predict(
    text: str,
    config: RunConfig,
    topology: Topology,
    mesh: Mesh,
    dollars_per_chip_hour: float | None = None,
    outputs: int | None = None,
) -> Prediction:
    """Predicts the step's time from its compiled text.

    Args:
      text: `compiled.as_text()` of the whole optimizer step.
      config: the run.
      topology: the topology that the step was compiled for.
      mesh: the mesh that it was compiled for.
      dollars_per_chip_hour: None: the chip's usual price.
      outputs: see `llmjax.train.metrics.flops.training_flops`.
    """
    module, costs = parse(text), machine(topology)
    near, _ = costs.networks
    transfers = collectives(module, mesh, (near, costs.across_hosts))
    links = costs.links(Devices(mesh))
    kernels = costs.kernels(module, config)
    compute = costs.compute_seconds(module)
    by_kernel = costs.kernel_seconds(module, kernels)
    timeline = play(
        module,
        transfers,
        links.seconds,
        links.busy_links,
        compute,
        by_kernel,
        costs.slowdown,
    )
    data, chip = config.data, topology.chip
    tokens = data.batch_size * data.seq_len
    full, causal = flops.training_flops(config.model, tokens, data.seq_len, outputs)
    speedup = chip.speedup(config.layout.quantization)
    peak_flops = chip.bf16_flops * topology.chips * timeline.total
    price = chip.dollars_per_hour
    if dollars_per_chip_hour is not None:
        price = dollars_per_chip_hour
    chip_seconds_per_token = timeline.total * topology.chips / tokens
    return Prediction(
        roofline=Roofline(
            compute=causal / speedup / chip.bf16_flops / topology.chips,
            hbm=costs.hbm_bytes(module) * chip.devices / chip.hbm_bandwidth,
            networks=costs.networks,
            **_transfer_seconds(transfers, links.seconds, near),
        ),
        summary=summarize(module),
        collectives=transfers,
        kernels=kernels,
        compiler_seconds=timeline.compute,
        pallas_seconds=timeline.kernels,
        exposed_seconds=timeline.exposed,
        step_seconds=timeline.total,
        waits=timeline.waits,
        uncounted=tuple(k.call.kernel for k in kernels if k.kind == "unknown"),
        largest=_largest(module, compute, by_kernel),
        mfu=full / peak_flops,
        mfu_causal=causal / peak_flops,
        tokens_per_second_per_chip=1 / chip_seconds_per_token,
        dollars_per_billion_tokens=chip_seconds_per_token * 1e9 * price / 3600,
    )


def _transfer_seconds(
    transfers: tuple[Collective, ...],
    seconds: Callable[[Collective], float],
    near: str,
) -> dict[str, Any]:
    """`near`, `far` and `host` of a roofline."""
    axes: dict[str, float] = {}
    others = {"far": 0.0, "host": 0.0}
    for transfer in transfers:
        time = seconds(transfer) * transfer.calls
        if transfer.network == near:
            axes[transfer.axis] = axes.get(transfer.axis, 0.0) + time
        else:
            others["host" if transfer.network == "host" else "far"] += time
    return {"near": axes, **others}


def _largest(
    module: HloModule,
    compute: Callable[[str, Instruction], float],
    by_kernel: dict[str, float],
    count: int = 20,
) -> tuple[tuple[str, str, str, float], ...]:
    """The costliest ops; loops count in the instructions of their bodies."""
    places: dict[tuple[str, str, str], float] = collections.defaultdict(float)
    for x, name, times in walk(module):
        seconds = compute(name, x) + by_kernel.get(x.name, 0.0)
        places[x.op_name, x.location, x.opcode] += seconds * times
    longest = sorted(places.items(), key=lambda item: -item[1])
    return tuple((*k, n) for k, n in longest[:count] if n)
