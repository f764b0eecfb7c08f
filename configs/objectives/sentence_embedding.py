"""SimCSE's objective: the two halves of a text are near, other texts far.

    python -m experiments.prepare_data --config=configs/objectives/sentence_embedding.py
    python -m experiments.pretrain --config=configs/objectives/sentence_embedding.py \
        --workdir=runs/sentence_embedding

Three to five minutes on two CPU cores.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "sentence_embedding"
    config.task.views = "halves"
    config.data.packing = "pad"
    config.data.batch_size = 32
    config.data.seq_len = 64
    config.model.architecture = "encoder"
    config.train.steps = 260
    config.train.eval_every = 130
    return config
