"""A run = model x task x data x layout x optimizer, each a small frozen value.

Every field has its one default here. A field that can be one of several things is a
union of dataclasses, told apart by their `kind`; each carries its own parameters.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from llmjax.config.checks import Count, Natural, Seed, checked, require
from llmjax.config.craft import CraftConfig
from llmjax.config.data import DataConfig
from llmjax.config.layout import (
    Attention,
    Axis,
    ContextParallelism,
    EinsumAttention,
    Gather,
    NoQuantization,
    NoRemat,
    Pipeline,
    Quantization,
    Remat,
)
from llmjax.config.loss import LossConfig
from llmjax.config.model import ModelConfig
from llmjax.config.optimizer import OptimizerConfig
from llmjax.config.peft import FullTuning, Peft
from llmjax.config.positions import Learned
from llmjax.config.precision import Float32, Precision
from llmjax.config.task import CausalLM, TaskConfig

# --- layout --------------------------------------------------------------------------


@checked
class LayoutConfig:
    """How the same maths is spread over devices and time."""

    # the mesh, outermost first: one of them -1 takes the devices that are left
    data: Axis = -1
    pipeline: Pipeline = Pipeline()
    fsdp: Axis = 1
    expert: Axis = 1
    sequence: Axis = 1
    tensor: Axis = 1
    slices: Count = 1  # that `data` spans over the slow network
    plan_topology: str | None = None  # of TPU chips that the run fits: "v5p:4x4x4"
    plan_gpus: str | None = None  # GPUs x hosts that it fits too: "h100:8x8"
    # what is computed
    precision: Precision = Float32()
    quantization: Quantization = NoQuantization()
    attention: Attention = EinsumAttention()
    context: ContextParallelism = Gather()  # attention over `sequence`
    # what is kept, and where
    remat: Remat = NoRemat()
    optimizer_sharding: Literal["weights", "data"] = "weights"  # data: ZeRO-1
    optimizer_memory: Literal["device", "host"] = "device"
    loss_block: Count = 128  # positions of each row whose logits exist at a time
    # what comes after what
    unroll: Count = 1  # layers per iteration of the scan
    microbatches: Count = 1
    # of XLA for the step: those named xla_tpu_ on TPUs alone, xla_gpu_ on GPUs alone,
    # others on both: "xla_tpu_scoped_vmem_limit_kib=98304"
    compiler_options: tuple[str, ...] = ()

    def __post_init__(self):
        for option in self.compiler_options:
            name, _, value = option.partition("=")
            require(
                name.startswith("xla_") and bool(value),
                f"compiler_options has {option!r}; an option is xla_NAME=VALUE",
            )

    @property
    def mesh_sizes(self) -> dict[str, int]:
        """Mesh axes, outermost first, and their sizes; -1 for what is left."""
        return {
            "data": self.data,
            "pipeline": self.pipeline.stages,
            "fsdp": self.fsdp,
            "expert": self.expert,
            "sequence": self.sequence,
            "tensor": self.tensor,
        }

    def mesh_fields(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Fields that give these mesh axes these sizes, for `dataclasses.replace`."""
        fields: dict[str, Any] = dict(sizes)
        if "pipeline" in fields:
            stages = fields["pipeline"]
            fields["pipeline"] = dataclasses.replace(self.pipeline, stages=stages)
        return fields


# --- the run -------------------------------------------------------------------------


@checked
class Scratch:
    """Random weights from train.seed."""

    kind: ClassVar[str] = "scratch"


@checked
class Checkpoint:
    """Weights from elsewhere: where names agree, adapted to a larger vocabulary.

    `path` is the workdir of an earlier run (`step` None: its best one), a folder or
    .gguf file in the hub's formats, or a pinned package ("package:NAME").

    `architecture` "checkpoint": the model is that of the weights, and the fields of
    `model` that are not at their defaults must leave the weights as they are (dropout)
    or add rows at their end (vocab_size). "config": it is the config's own and takes
    the weights that fit. In both the tokenizer is that of the weights.
    """

    kind: ClassVar[str] = "checkpoint"
    path: str = ""
    step: Natural | None = None
    architecture: Literal["checkpoint", "config"] = "checkpoint"

    def __post_init__(self):
        require(bool(self.path), "path is empty; give the workdir of an earlier run")


@checked
class TrainConfig:
    """How long, how often, what is kept."""

    seed: Seed = 0
    steps: Count = 1000
    log_every: Count = 10
    eval_every: Count = 100
    eval_batches: Count | None = None  # None: the whole split
    checkpoint_every: Count = 100
    keep_best: Natural = 1
    best_metric: str = "loss"  # of the evaluation
    best_mode: Literal["min", "max"] = "min"  # max: larger is better
    patience: Count | None = None  # evaluations in a row without a better one: the end
    writers: tuple[Literal["jsonl", "tensorboard", "wandb"], ...] = ("jsonl",)
    heartbeat_timeout_seconds: Count = 100  # a process silent for so long is lost
    # where the latest checkpoint is damaged: end, or move it to <workdir>/damaged and
    # go on from the last whole one
    damaged: Literal["refuse", "set_aside"] = "refuse"


@checked
class RunConfig:
    """Everything that a run is a function of."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig = CausalLM()
    data: DataConfig = DataConfig()
    layout: LayoutConfig = LayoutConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    init: Scratch | Checkpoint = Scratch()
    loss: LossConfig = LossConfig()
    peft: Peft = FullTuning()
    craft: CraftConfig = CraftConfig()

    def __post_init__(self):
        B, k = self.data.batch_size, self.layout.microbatches
        require(
            B % k == 0,
            f"data.batch_size={B} is not a multiple of layout.microbatches={k}",
        )
        positions, data = self.model.positions, self.data
        longest = max(data.seq_len, data.encoder_seq_len or 0)
        require(
            not isinstance(positions, Learned) or positions.max_length >= longest,
            f"data.seq_len={data.seq_len} or data.encoder_seq_len="
            f"{data.encoder_seq_len} exceeds the learned positions; raise "
            f"model.positions.max_length={getattr(positions, 'max_length', None)}",
        )
