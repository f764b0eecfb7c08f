"""ALBERT's two objectives: hidden tokens, and the order of two segments.

    python -m experiments.prepare_data --config=configs/objectives/sentence_order.py
    python -m experiments.pretrain --config=configs/objectives/sentence_order.py \
        --workdir=runs/sentence_order

Three to five minutes on two CPU cores. Rows are short, so that there are many pairs.
"""

import ml_collections

from configs.objectives import masked_lm


def get_config() -> ml_collections.ConfigDict:
    config = masked_lm.get_config()
    config.task.kind = "sentence_order"
    config.data.packing = "pad"
    config.data.batch_size = 32
    config.data.seq_len = 64
    config.model.token_types = 2
    return config
