"""Which commands a run that ended names: those that its model and task are for."""

import dataclasses

import pytest

from experiments import following
from llmjax.config import (
    Cosine,
    LayerNorm,
    Learned,
    LinearHead,
    MaskedLM,
    MultiTokenPrediction,
    Plain,
    RunConfig,
    SentenceEmbedding,
    SequenceClassification,
    Transformed,
)

BERT = {
    "architecture": "encoder",
    "token_types": 2,
    "embedding_norm": True,
    "positions": Learned(1024),
    "mlp": Plain(),
    "norm": LayerNorm(1e-12),
    "norm_position": "post",
    "biases": "all",
    "output": Transformed(),
    "output_bias": True,
    "num_heads": 2,
    "head_dim": 8,
}

CLASSES = SequenceClassification(2, pooling="last", head=LinearHead(False))


@pytest.mark.parametrize(
    ("task", "fields", "names"),
    [
        (None, {}, "generate convert"),
        (None, {"scores": Cosine()}, "generate"),
        (MultiTokenPrediction(depth=2), {}, "generate convert"),
        (MaskedLM(), BERT, "convert"),
        (SentenceEmbedding(), {"architecture": "encoder"}, "predict"),
        (
            SequenceClassification(2, pooling="last", head=LinearHead(False)),
            {},
            "predict convert",
        ),
    ],
)
def test_the_commands_of_a_task(tiny, task, fields, names, tmp_path):
    cfg = dataclasses.replace(tiny, **fields)
    run = RunConfig(cfg) if task is None else RunConfig(cfg, task)
    lines = following.commands(run, f"{tmp_path}/a run/")
    mains = [line.split()[2].removeprefix("experiments.") for line in lines]
    assert mains == ["evaluate", *names.split()]
    assert f"evaluate --run='{tmp_path}/a run/'" in lines[0]
    if "convert" in names:
        assert lines[-1].endswith(f" --target='{tmp_path}/a run_model'")
