"""Seconds of one step predicted from its compiled program; MFU and price from them."""

import dataclasses

from jax.sharding import Mesh

from llmjax.config import RunConfig, SlidingWindow
from llmjax.plan.cost import pallas
from llmjax.plan.cost.chips import Topology
from llmjax.plan.cost.links import Links
from llmjax.plan.cost.pallas import KernelCost
from llmjax.plan.cost.timeline import play
from llmjax.plan.hlo import traffic
from llmjax.plan.hlo.collectives import Collective, Devices, collectives
from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.module import HloModule, parse
from llmjax.plan.hlo.summary import Summary, custom_call, is_pallas, summarize
from llmjax.train.metrics import flops


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds of a step's time on one device, in seconds.

    Attributes:
      compute: the model's FLOPs, causal attention counted as half, at the peak rate of
        the types that layout.quantization multiplies in.
      hbm: bytes that instructions read and write, at the memory's bandwidth.
      ici: mesh axis -> its transfers within a slice, at the bandwidth of their links.
      dcn: transfers across slices.
      host: transfers to and from the host's memory.
    """

    compute: float
    hbm: float
    ici: dict[str, float]
    dcn: float
    host: float

    @property
    def binds(self) -> str:
        """Name of the longest: a step cannot be faster."""
        times = {"compute": self.compute, "hbm": self.hbm, "dcn": self.dcn}
        times |= {"ici": sum(self.ici.values()), "host": self.host}
        return max(times, key=lambda name: times[name])


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted time of a step.

    Attributes:
      compiler_seconds: the compiler's cycles at the chip's clock.
      pallas_seconds: kernels without cycles, by the cost model of `pallas`.
      exposed_seconds: transfers that no compute hides, by `timeline`.
      step_seconds: the sum of the three.
      waits: exposed seconds by (kind, axis, network).
      uncounted: kernels without a cost model; they count as no time.
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
    module = parse(text)
    transfers = collectives(module, mesh)
    links = Links(topology, Devices(mesh))
    summary = summarize(module)
    mask = config.model.architecture != "encoder", _window(config)
    kernels = tuple(pallas.cost(c, topology.chip, *mask) for c in summary.pallas)
    timeline = play(
        module,
        transfers,
        links.seconds,
        links.busy_links,
        _kernel_seconds(module, kernels),
        topology.chip.hertz,
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
        roofline=_roofline(module, transfers, links, causal / speedup),
        summary=summary,
        collectives=transfers,
        kernels=kernels,
        compiler_seconds=timeline.compute,
        pallas_seconds=timeline.kernels,
        exposed_seconds=timeline.exposed,
        step_seconds=timeline.total,
        waits=timeline.waits,
        uncounted=tuple(k.call.kernel for k in kernels if k.kind == "unknown"),
        mfu=full / peak_flops,
        mfu_causal=causal / peak_flops,
        tokens_per_second_per_chip=1 / chip_seconds_per_token,
        dollars_per_billion_tokens=chip_seconds_per_token * 1e9 * price / 3600,
    )


def _roofline(
    module: HloModule,
    transfers: tuple[Collective, ...],
    links: Links,
    model_flops: float,
) -> Roofline:
    chip, chips = links.topology.chip, links.topology.chips
    ici: dict[str, float] = {}
    slow = {"dcn": 0.0, "host": 0.0}
    for transfer in transfers:
        seconds = links.seconds(transfer) * transfer.calls
        if transfer.network == "ici":
            ici[transfer.axis] = ici.get(transfer.axis, 0.0) + seconds
        else:
            slow[transfer.network] += seconds
    return Roofline(
        compute=model_flops / chip.bf16_flops / chips,
        hbm=traffic.hbm_bytes(module) * chip.devices / chip.hbm_bandwidth,
        ici=ici,
        dcn=slow["dcn"],
        host=slow["host"],
    )


def _kernel_seconds(
    module: HloModule, kernels: tuple[KernelCost, ...]
) -> dict[str, float]:
    """Instruction that calls a kernel -> seconds of one execution."""
    per_call = {
        dataclasses.replace(k.call, calls=1): k.seconds / k.call.calls
        for k in kernels
        if k.kind != "unknown"
    }
    return {
        instruction.name: per_call.get(custom_call(module, name, instruction), 0.0)
        for instruction, name, _ in walk(module)
        if is_pallas(instruction)
    }


def _window(config: RunConfig) -> int | None:
    """Window of the attention kernels; None where any layer sees the whole sequence.

    The text does not say which layer a kernel belongs to, so where layers differ the
    widest window counts for all.
    """
    windows = [
        spec.pattern.window if isinstance(spec.pattern, SlidingWindow) else None
        for group in config.model.layers
        for spec in group.pattern
    ]
    widths = [w for w in windows if w is not None]
    return max(widths) if len(widths) == len(windows) else None
