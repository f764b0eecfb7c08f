"""Seconds of one step from a compiled program, and what follows from them."""

import dataclasses

from jax.sharding import Mesh

from llmjax.config import RunConfig, SlidingWindow
from llmjax.plan import pallas, traffic
from llmjax.plan.chips import Topology
from llmjax.plan.collectives import Collective, Devices, collectives
from llmjax.plan.execution import walk
from llmjax.plan.hlo import Program, parse
from llmjax.plan.links import Links
from llmjax.plan.pallas import KernelCost
from llmjax.plan.summary import Summary, custom_call, is_pallas, summarize
from llmjax.plan.timeline import play
from llmjax.train import flops


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds per step on one device, each as if nothing else took time.

    Attributes:
      compute: the model's FLOPs, causal attention as half, at the peak of the types
        that layout.quantization multiplies in.
      hbm: bytes that instructions read and write, at the memory's bandwidth.
      ici: per mesh axis, at the links that serve it.
      dcn, host: across slices, and to and from the host's memory.
    """

    compute: float
    hbm: float
    ici: dict[str, float]
    dcn: float
    host: float

    @property
    def binds(self) -> str:
        """The longest of them: a step cannot be faster."""
        times = {"compute": self.compute, "hbm": self.hbm, "dcn": self.dcn}
        times |= {"ici": sum(self.ici.values()), "host": self.host}
        return max(times, key=lambda name: times[name])


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a step should take.

    Attributes:
      compiler_seconds: the compiler's cycles at the chip's clock.
      pallas_seconds: kernels that the compiler gives no cycles, by `pallas`.
      exposed_seconds: transfers that no compute hides, by `timeline`.
      step_seconds: the three together.
      waits: exposed seconds by (kind, axis, network).
      uncounted: kernels without a cost model, which count as no time.
      mfu, mfu_causal: of the chips' bfloat16 peak, FLOPs by `llmjax.train.flops`.
      dollars_per_billion_tokens: from the price of a chip-hour.
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
    """The step's time from its compiled text.

    Args:
      text: `compiled.as_text()` of the whole optimizer step.
      config: the run.
      topology: what it was compiled for.
      mesh: as the step was compiled for it.
      dollars_per_chip_hour: None: the chip's usual price.
      outputs: as in `llmjax.train.flops.training_flops`.
    """
    program = parse(text)
    transfers = collectives(program, mesh)
    links = Links(topology, Devices(mesh))
    summary = summarize(program)
    seen = config.model.architecture != "encoder", _window(config)
    kernels = tuple(pallas.cost(c, topology.chip, *seen) for c in summary.pallas)
    timeline = play(
        program,
        transfers,
        links.seconds,
        links.channel,
        _kernel_seconds(program, kernels),
        topology.chip.hertz,
    )
    data, chip = config.data, topology.chip
    tokens = data.batch_size * data.seq_len
    full, causal = flops.training_flops(config.model, tokens, data.seq_len, outputs)
    speed = chip.speedup(config.layout.quantization)
    available = chip.bf16_flops * topology.chips * timeline.total
    price = chip.dollars_per_hour
    if dollars_per_chip_hour is not None:
        price = dollars_per_chip_hour
    chip_seconds_per_token = timeline.total * topology.chips / tokens
    return Prediction(
        roofline=_roofline(program, transfers, links, causal / speed),
        summary=summary,
        collectives=transfers,
        kernels=kernels,
        compiler_seconds=timeline.compute,
        pallas_seconds=timeline.kernels,
        exposed_seconds=timeline.exposed,
        step_seconds=timeline.total,
        waits=timeline.waits,
        uncounted=tuple(k.call.kernel for k in kernels if k.kind == "unknown"),
        mfu=full / available,
        mfu_causal=causal / available,
        tokens_per_second_per_chip=1 / chip_seconds_per_token,
        dollars_per_billion_tokens=chip_seconds_per_token * 1e9 * price / 3600,
    )


def _roofline(
    program: Program, transfers: tuple[Collective, ...], links: Links, causal: float
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
        compute=causal / chip.bf16_flops / chips,
        hbm=traffic.hbm_bytes(program) * chip.devices / chip.hbm_bandwidth,
        ici=ici,
        dcn=slow["dcn"],
        host=slow["host"],
    )


def _kernel_seconds(
    program: Program, kernels: tuple[KernelCost, ...]
) -> dict[str, float]:
    """Of one execution of each instruction that calls a kernel."""
    once = {
        dataclasses.replace(k.call, calls=1): k.seconds / k.call.calls
        for k in kernels
        if k.kind != "unknown"
    }
    return {
        instruction.name: once.get(custom_call(program, name, instruction), 0.0)
        for instruction, name, _ in walk(program)
        if is_pallas(instruction)
    }


def _window(config: RunConfig) -> int | None:
    """Of the attention kernels; where layers differ the text does not tell them apart:
    the widest of any."""
    windows = [
        spec.pattern.window if isinstance(spec.pattern, SlidingWindow) else None
        for group in config.model.layers
        for spec in group.pattern
    ]
    wide = [w for w in windows if w is not None]
    return max(wide) if len(wide) == len(windows) else None
