"""Which package does a docstring belong to, its names masked: eleven classes.

    python -m experiments.finetune --config=configs/finetune/python_docs.py \
        --workdir=runs/finetune --config.init.path=runs/pretrain

Starts from `configs/pretrain/python_docs.py`'s run; on two CPU cores under a minute.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.init.kind = "checkpoint"
    config.init.path = "runs/pretrain"
    config.task.kind = "sequence_classification"
    config.task.num_labels = 11
    config.task.pooling = "mean"
    config.task.text_field = "masked_text"
    config.data.packing = "first_fit"  # two texts a row, about
    config.data.batch_size = 8
    config.data.seq_len = 128
    config.train.steps = 50
    config.train.eval_every = 50
    config.train.eval_batches = None
    config.train.checkpoint_every = 50
    config.layout.unroll = 1  # a short run: it compiles faster
    config.optimizer.algorithm.kind = "adamw"
    config.optimizer.algorithm.newton_schulz_steps = None
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule.warmup_steps = 10
    return config
