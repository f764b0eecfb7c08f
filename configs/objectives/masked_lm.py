"""Hidden tokens from both of their sides: a masked language model, BERT's.

    python -m experiments.prepare_data --config=configs/objectives/masked_lm.py
    python -m experiments.pretrain --config=configs/objectives/masked_lm.py \
        --workdir=runs/masked_lm

Three to five minutes on two CPU cores. Three tokens in ten are hidden:
more to learn from in a step than BERT's 15 % give (Wettig et al. 2022,
arXiv:2202.08005).
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "masked_lm"
    config.task.rate = 0.3
    config.data.packing = "chunk"
    config.data.batch_size = 16
    config.data.seq_len = 128
    config.model.architecture = "encoder"
    config.model.vocab_size = 4224  # with <mask>
    return config
