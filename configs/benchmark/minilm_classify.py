"""A MiniLM-shaped encoder of six layers with two classes, for timing.

python -m experiments.benchmark --config=configs/benchmark/minilm_classify.py
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.task.kind = "sequence_classification"
    config.task.num_labels = 2
    config.data.packing = "pad"
    config.data.batch_size = 32
    config.data.seq_len = 128
    config.model.architecture = "encoder"
    config.model.vocab_size = 30522
    config.model.d_model = 384
    config.model.d_ff = 1536
    config.model.num_layers = 6
    config.model.num_heads = 12
    config.model.norm.kind = "layer_norm"
    config.model.norm_position = "post"
    config.model.positions.kind = "learned"
    config.model.positions.max_length = 512
    config.model.mlp.kind = "plain"
    config.model.mlp.activation = "gelu"
    config.model.biases = "all"
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "l4:4"
    config.layout.unroll = 6
    return config
