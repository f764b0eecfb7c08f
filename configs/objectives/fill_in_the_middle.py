"""Left to right, and for one document in two its middle from both of its sides.

    python -m experiments.prepare_data --config=configs/objectives/fill_in_the_middle.py
    python -m experiments.pretrain --config=configs/objectives/fill_in_the_middle.py \
        --workdir=runs/fill_in_the_middle

Three to five minutes on two CPU cores.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "fill_in_the_middle"
    config.data.packing = "chunk"
    config.model.vocab_size = 4224  # with the sentinels
    return config
