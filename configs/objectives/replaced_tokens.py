"""ELECTRA's objective: which tokens did a small generator replace?

    python -m experiments.prepare_data --config=configs/objectives/replaced_tokens.py
    python -m experiments.pretrain --config=configs/objectives/replaced_tokens.py \
        --workdir=runs/replaced_tokens

Five minutes on two CPU cores, after which it is a little above its baseline.
"""

import ml_collections

from configs.objectives import masked_lm


def get_config() -> ml_collections.ConfigDict:
    config = masked_lm.get_config()
    config.task.kind = "replaced_tokens"
    config.task.rate = 0.25
    config.task.mask_share = 1.0
    config.task.random_share = 0.0
    config.task.generator_size = 0.5
    config.task.loss_weight = 1.0  # or the shared embeddings learn little from masks
    config.train.steps = 340
    config.train.eval_every = 170
    return config
