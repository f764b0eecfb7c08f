"""BART's objective, an encoder-decoder on the documentation that Python carries.

    python -m experiments.prepare_data --config=configs/objectives/denoising.py
    python -m experiments.pretrain --config=configs/objectives/denoising.py \
        --workdir=runs/denoising

Three to five minutes on two CPU cores.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "denoising"
    config.data.packing = "chunk"
    config.data.encoder_seq_len = 256
    config.model.architecture = "encoder_decoder"
    config.model.vocab_size = 4224
    config.model.num_layers = 3  # of each stack
    config.layout.unroll = 3
    config.train.steps = 216
    config.train.eval_every = 108
    config.train.checkpoint_every = 120
    return config
