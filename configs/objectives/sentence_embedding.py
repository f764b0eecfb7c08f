"""SimCSE's objective: the two halves of a text are near, other texts far.

    python -m experiments.prepare_data --config=configs/objectives/sentence_embedding.py
    python -m experiments.pretrain --config=configs/objectives/sentence_embedding.py \
        --workdir=runs/sentence_embedding

On two CPU cores three to five minutes.
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
    return config
