"""The next three tokens at once: a trunk of one layer and three heads.

    python -m experiments.prepare_data \
        --config=configs/objectives/multi_token_prediction.py
    python -m experiments.pretrain \
        --config=configs/objectives/multi_token_prediction.py \
        --workdir=runs/multi_token_prediction

As in the paper, the heads are layers taken from the trunk: as many weights as
`causal_lm`, of which the next token sees two layers. Three to five minutes
on two CPU cores.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "multi_token_prediction"
    config.task.depth = 3
    config.model.num_layers = 2  # trunk and first head
    config.train.steps = 280
    config.train.eval_every = 140
    return config
