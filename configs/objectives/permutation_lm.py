"""XLNet: one token in six, in a random order, by two streams.

    python -m experiments.prepare_data --config=configs/objectives/permutation_lm.py
    python -m experiments.pretrain --config=configs/objectives/permutation_lm.py \
        --workdir=runs/permutation_lm

The paper's model, small: 4 layers of 256. Three to five minutes on two CPU cores.
"""

import ml_collections

from configs.pretrain import python_docs
from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "permutation_lm"
    config.data.packing = "chunk"
    config.data.batch_size = 16
    config.data.seq_len = 128
    config.model.architecture = "encoder"
    config.model.d_ff = 1024
    config.model.positions.kind = "transformer_xl"
    config.model.positions.segments = True
    config.model.mlp.kind = "plain"
    config.model.norm.kind = "layer_norm"
    config.model.norm.epsilon = 1e-12
    config.model.norm_position = "post"
    config.model.biases = "mlp"
    config.model.output_bias = True
    config.layout.attention.kind = "einsum"  # positions depend on the content
    config.optimizer = cfg.default().optimizer  # AdamW, as the paper's Adam
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.weight_decay = 0.01
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 40
    config.train.steps = 210
    config.train.eval_every = 105
    return config
