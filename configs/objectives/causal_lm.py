"""The next token: a causal language model on the documentation that Python carries.

    python -m experiments.prepare_data --config=configs/objectives/causal_lm.py
    python -m experiments.pretrain --config=configs/objectives/causal_lm.py \
        --workdir=runs/causal_lm

On two CPU cores about four minutes.
"""

import ml_collections

from configs.pretrain import python_docs


def get_config() -> ml_collections.ConfigDict:
    return python_docs.get_config()
