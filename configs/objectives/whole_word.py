"""As masked_lm.py, and words are hidden whole.

    python -m experiments.prepare_data --config=configs/objectives/whole_word.py
    python -m experiments.pretrain --config=configs/objectives/whole_word.py \
        --workdir=runs/whole_word

Three to five minutes on two CPU cores.
"""

import ml_collections

from configs.objectives import masked_lm


def get_config() -> ml_collections.ConfigDict:
    config = masked_lm.get_config()
    config.task.masking = "whole_word"
    return config
