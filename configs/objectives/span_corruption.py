"""T5's objective, an encoder-decoder on the documentation that Python carries.

    python -m experiments.prepare_data --config=configs/objectives/span_corruption.py
    python -m experiments.pretrain --config=configs/objectives/span_corruption.py \
        --workdir=runs/span_corruption

Three to five minutes on two CPU cores. 284 tokens of text fill the
encoder's 256 and 57 of the decoder's 64.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "span_corruption"
    config.data.packing = "chunk"
    config.data.encoder_seq_len = 256
    config.data.seq_len = 64
    config.model.architecture = "encoder_decoder"
    config.model.vocab_size = 4224
    config.model.num_layers = 3  # of each stack
    config.layout.unroll = 3
    config.train.steps = 300
    config.train.eval_every = 100
    config.train.checkpoint_every = 150
    return config
