"""UL2's mixture of denoisers, a decoder on the documentation that Python carries.

    python -m experiments.prepare_data --config=configs/objectives/ul2.py
    python -m experiments.pretrain --config=configs/objectives/ul2.py \
        --workdir=runs/ul2

Three to five minutes on two CPU cores. Inputs and targets share a row,
the inputs as a prefix.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "ul2"
    config.data.packing = "chunk"
    config.model.vocab_size = 4224
    config.train.steps = 330
    config.train.eval_every = 110
    config.train.checkpoint_every = 165
    return config
