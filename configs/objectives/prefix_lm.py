"""The rest of a text from its beginning, which is seen both ways (T5's prefix LM).

    python -m experiments.prepare_data --config=configs/objectives/prefix_lm.py
    python -m experiments.pretrain --config=configs/objectives/prefix_lm.py \
        --workdir=runs/prefix_lm

Three to five minutes on two CPU cores; about half of the tokens are
predicted.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "prefix_lm"
    config.data.packing = "chunk"  # a text is a row's, so that its prefix is whole
    return config
