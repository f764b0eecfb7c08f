"""Three objectives in one decoder, on the documentation that Python carries.

    python -m experiments.prepare_data --config=configs/objectives/multi_task.py
    python -m experiments.pretrain --config=configs/objectives/multi_task.py \
        --workdir=runs/multi_task

Three to five minutes on two CPU cores. Half of the rows are plain text;
the evaluation tells the loss of each objective.
"""

import ml_collections

from configs.pretrain import python_docs
from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = python_docs.get_config()
    config.task.kind = "multi_task"
    config.task.parts = tuple(
        cfg.to_dict(cfg.TaskPart(task, weight))
        for task, weight in (
            (cfg.CausalLM(), 2.0),
            (cfg.PrefixLM(), 1.0),
            (cfg.SpanCorruption(), 1.0),
        )
    )
    config.data.packing = "chunk"
    config.model.vocab_size = 4224
    config.train.steps = 330
    config.train.eval_every = 110
    config.train.checkpoint_every = 165
    return config
