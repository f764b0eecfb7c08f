"""What a user has next, learned from who had what and when (SASRec).

    python -m experiments.finetune --config=configs/finetune/next_item.py \
        --config.data.source=events.csv --workdir=runs/items

A row has a `user` (`user_id`, …), an `item` (`item_id`, …) and a `time` (`timestamp`,
…), a number. The last item of each user is the test, the one before it the validation;
with `task.split.kind` "global_time" the last events of all. Evaluations rank all items.

    python -m experiments.predict --run=runs/items --input=users.jsonl --keep=user \
        --output=items.jsonl

reads a `history` in each row, a list of items or their names with spaces between them,
and gives the ten likeliest `items` with their `scores`.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.task.kind = "next_item"
    config.model.d_model = 64
    config.model.d_ff = 256
    config.model.num_layers = 2
    config.model.num_heads = 2
    config.model.positions.kind = "learned"
    config.model.positions.max_length = 200
    config.model.dropout = 0.2
    config.data.source = "events.csv"
    config.data.tokenizer.kind = "items"
    config.data.packing = "pad"
    config.data.batch_size = 64
    config.data.seq_len = 200
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 1000
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    config.train.best_metric = "ndcg@10"
    config.train.best_mode = "max"
    config.train.patience = 5
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.algorithm.b2 = 0.98
    config.optimizer.schedule.kind = "constant"
    config.optimizer.schedule.warmup_steps = 100
    return config
