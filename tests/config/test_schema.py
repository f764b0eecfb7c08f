"""Values that cannot work are refused where they are made, each with its remedy."""

import dataclasses

import pytest

from llmjax import config


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: config.ModelConfig(d_model=30, num_heads=4), "set head_dim"),
        (
            lambda: config.ModelConfig(num_heads=4, num_kv_heads=3),
            "num_kv_heads=3; each",
        ),
        (lambda: config.ModelConfig(num_heads=4, num_kv_heads=0), "num_kv_heads"),
        (lambda: config.ModelConfig(head_dim=5), "head size 5 is odd; .* make it even"),
        (lambda: config.ModelConfig(d_ff=0), "d_ff is 0; it must be positive"),
        (lambda: config.ModelConfig(vocab_size=-1), "vocab_size is -1"),
        (lambda: config.ModelConfig(num_layers=0), "num_layers is 0"),
        (lambda: config.ModelConfig(groups=(config.Group(0),)), "repeat"),
        (lambda: config.ModelConfig(head_dim=0), "head_dim is 0"),
        (
            lambda: config.ModelConfig(dropout=1.0),
            r"dropout is 1.0; it must be in \[0, 1\)",
        ),
        (
            lambda: config.ModelConfig(attention_dropout=-0.1),
            "attention_dropout is -0.1",
        ),
        (lambda: config.SlidingWindow(0), "window is 0"),
        (lambda: config.BlockedAttention(0), "block is 0"),
        (lambda: config.LayoutConfig(microbatches=0), "microbatches is 0"),
        (lambda: config.LayoutConfig(unroll=0), "unroll is 0; it must be at least 1"),
        (lambda: config.LayoutConfig(loss_block=0), "loss_block is 0"),
        (
            lambda: config.LayoutConfig(compiler_options=("scoped_vmem=1",)),
            "'scoped_vmem=1'; an option is xla_NAME=VALUE",
        ),
        (lambda: config.DataConfig(seq_len=0), "seq_len is 0; it must be positive"),
        (lambda: config.TrainConfig(steps=0), "steps is 0; it must be at least 1"),
        (lambda: config.Checkpoint(), "path is empty; give the workdir"),
        (
            lambda: config.RunConfig(
                data=config.DataConfig(batch_size=10),
                layout=config.LayoutConfig(microbatches=4),
            ),
            "data.batch_size=10 is not a multiple of layout.microbatches=4",
        ),
        (
            lambda: config.RunConfig(
                model=config.ModelConfig(positions=config.Learned(64)),
                data=config.DataConfig(seq_len=65),
            ),
            "data.seq_len=65 or .* exceeds .* raise model.positions.max_length=64",
        ),
    ],
)
def test_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_values_are_frozen_and_hashable():
    run = config.RunConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.train.steps = 3
    assert hash(run) == hash(config.RunConfig())


def test_derived_sizes():
    cfg = config.ModelConfig(d_model=12, num_heads=3, positions=config.NoPositions())
    assert (cfg.H, cfg.K, cfg.L) == (4, 3, 4)
    cfg = dataclasses.replace(cfg, num_kv_heads=1, head_dim=5, num_layers=2)
    assert (cfg.H, cfg.K, cfg.L, cfg.layers) == (5, 1, 2, (config.Group(2),))


def test_odd_heads_are_fine_without_rotary():
    assert config.ModelConfig(head_dim=5, positions=config.Learned()).H == 5
