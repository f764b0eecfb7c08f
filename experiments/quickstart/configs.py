"""The configs of the quickstart's runs."""

from typing import Any

from etils import epath

from configs.finetune import python_docs as finetune_config
from configs.pretrain import python_docs as pretrain_config
from llmjax import config as cfg

TEXTS = 200  # with a label, that the model is fine-tuned on


def configs(
    folder: epath.Path, quick: bool = False, directory: str | None = None
) -> tuple[cfg.RunConfig, cfg.RunConfig, Any]:
    """The runs of pretraining and embedding, and the ConfigDict of fine-tuning's.

    Args:
      folder: of the quickstart; each run starts from the one before it in there.
      quick: shrinks them to toys.
      directory: cache of the corpora; None: the configs' own.
    """
    pretrain, finetune = pretrain_config.get_config(), finetune_config.get_config()
    embed = _embedding()
    for config in (pretrain, embed, finetune):
        if quick:
            _shrink(config)
        if directory:
            config.data.directory = directory
    embed.init.path = str(folder / "pretrain")
    finetune.init.path = str(folder / "embed")
    finetune.data.tokenizer.kind = "file"
    finetune.data.tokenizer.path = str(folder / "pretrain" / "tokenizer")
    finetune.data.tokenizer.vocab_size = None
    return cfg.parse(pretrain), cfg.parse(embed), finetune


def _embedding() -> Any:
    """The two halves of a text are near, other texts far: no labels, a minute.

    So that the states, which know the next token, know the text's subject too.
    """
    config = pretrain_config.get_config()
    config.init.kind = "checkpoint"
    config.init.path = "pretrain"
    config.task.kind = "sentence_embedding"
    config.task.views = "halves"
    config.data.packing = "pad"
    config.data.batch_size = 24
    config.data.seq_len = 42
    config.layout.unroll = 1
    config.train.steps = 110
    config.train.eval_every = 110
    config.train.checkpoint_every = 110
    config.optimizer.algorithm.kind = "adamw"
    config.optimizer.algorithm.newton_schulz_steps = None
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule.warmup_steps = 10
    return config


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
