"""The configs of the quickstart's runs."""

from typing import Any

from etils import epath

from configs.finetune import python_docs as finetune_config
from configs.pretrain import python_docs as pretrain_config
from llmjax import config as cfg


def configs(
    pretrained: epath.Path, quick: bool = False, directory: str | None = None
) -> tuple[cfg.RunConfig, Any]:
    """The pretraining run, and the ConfigDict of the fine-tuning runs.

    Args:
      pretrained: workdir of the pretraining run, which fine-tuning starts from.
      quick: shrinks both to a toy.
      directory: cache of the corpora; None: the configs' own.
    """
    pretrain, finetune = pretrain_config.get_config(), finetune_config.get_config()
    for config in (pretrain, finetune):
        if quick:
            _shrink(config)
        if directory:
            config.data.directory = directory
    finetune.init.path = str(pretrained)
    return cfg.parse(pretrain), finetune


def finetuning_rate() -> float:
    """The learning rate of fine-tuning from the checkpoint."""
    return cfg.parse(finetune_config.get_config()).optimizer.learning_rate


def _shrink(config: Any) -> None:
    """Makes a run take seconds, on the small corpus."""
    config.data.source = "python_docs/small"
    config.data.tokenizer.vocab_size = 512
    config.data.seq_len = 64
    config.model.vocab_size = 512
    config.model.d_model = 32
    config.model.d_ff = 64
    config.model.num_layers = 2
    config.model.num_heads = 2
    config.train.steps = 20
    config.train.log_every = 2
    config.train.eval_every = 20
    config.train.eval_batches = 2
    config.train.checkpoint_every = 20
    config.optimizer.schedule.warmup_steps = 2
