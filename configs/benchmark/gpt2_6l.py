"""A GPT-2-shaped decoder of six layers, for timing.

python -m experiments.benchmark --config=configs/benchmark/gpt2_6l.py
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.data.batch_size = 16
    config.data.seq_len = 256
    config.model.vocab_size = 8192
    config.model.d_model = 384
    config.model.d_ff = 1536
    config.model.num_layers = 6
    config.model.num_heads = 6
    config.model.norm.kind = "layer_norm"
    config.model.positions.kind = "learned"
    config.model.positions.max_length = 256
    config.model.mlp.kind = "plain"
    config.model.mlp.activation = "gelu_tanh"
    config.model.biases = "all"
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "a100-40:4"
    config.layout.unroll = 6
    config.layout.attention.kind = "blocked"
    return config
