"""Converts models between the hub's formats and a checkpoint of llmjax.

    python -m experiments.convert --source=path/to/hub/folder --target=runs/llama
    python -m experiments.convert --source=model.gguf --target=out --to=hub
    python -m experiments.convert --source=runs/quickstart/pretrain --target=out

The source is a folder of the hub, a .gguf file, package:NAME or the workdir of a run,
of which the best checkpoint is taken, or `--step`; of several prediction heads the
first, which is a causal language model, is converted alone. The target is
a new folder: of a run the hub's format, otherwise a checkpoint that `init` reads, with
weights and the model's config alone. Prints every leaf and the hub's name for it.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import traverse_util

from experiments import cli
from llmjax import hub
from llmjax.config import DataConfig, Learned, RunConfig
from llmjax.hub import families, packages
from llmjax.hub.load import abstract, check, read_params
from llmjax.hub.stored_model import open_model
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.multi_token import PredictionHeads, first_head
from llmjax.tasks.registry import make_model
from llmjax.train.checkpoints.checkpoints import FOLDER, Checkpoints, load_params
from llmjax.train.state import State

SOURCE = flags.DEFINE_string(
    "source", None, "a hub folder, .gguf, package:NAME or run", required=True
)
TARGET = flags.DEFINE_string("target", None, "a new folder", required=True)
TO = flags.DEFINE_enum(
    "to", None, ["checkpoint", "hub"], "format of the target; the other one if absent"
)
FAMILY = flags.DEFINE_string("family", None, "model_type to write; any that fits")
DTYPE = flags.DEFINE_string("dtype", None, "type of the weights; as stored")
STEP = flags.DEFINE_integer("step", None, "of a run's checkpoint; the best when absent")
DOWNLOAD = flags.DEFINE_bool("download", False, "agree to download a package")
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def main() -> dict[str, Any]:
    run = (Path(SOURCE.value).expanduser() / FOLDER).is_dir()
    model, params, names, beside = from_run() if run else from_hub()
    if (TO.value or ("hub" if run else "checkpoint")) == "hub":
        family = hub.save(
            model, params, TARGET.value, family=FAMILY.value, beside=beside
        )
        written = f"hub, {family.name}"
    else:
        write_checkpoint(model, params, Path(TARGET.value).expanduser())
        written = "checkpoint"
    leaves = traverse_util.flatten_dict(params, sep="/")
    for path, leaf in leaves.items():
        shape = "x".join(map(str, leaf.shape))
        print(f"{path:64} {shape:>20} {leaf.dtype!s:9} {names.get(path, '')}".rstrip())
    return {
        "source": SOURCE.value,
        "target": TARGET.value,
        "written": written,
        "leaves": len(leaves),
        "parameters": sum(leaf.size for leaf in leaves.values()),
    }


# model, params, leaf -> the hub's name, files to copy along
Loaded = tuple[Any, Any, dict[str, str], list[Path]]


def from_run() -> Loaded:
    """The model of a run, in the form that the hub has for it.

    Raises:
      ValueError: the hub has no form of the task's model.
    """
    config, params = load_params(SOURCE.value, step=STEP.value)
    model: Any = make_model(config)
    if isinstance(model, PredictionHeads):
        params = first_head(config.model, params, model.depth)
        model = LanguageModel(config.model, config.layout)
    heads = {
        head
        for model_type in families.MODULES
        for head in families.family(model_type).architectures.values()
    }
    if type(model).__name__ not in heads:
        raise ValueError(
            f"--source={SOURCE.value} has task.kind={config.task.kind!r}, whose "
            f"{type(model).__name__} no format of the hub holds; they hold "
            f"{', '.join(sorted(heads))}"
        )
    if DTYPE.value is not None:
        params = jax.tree.map(lambda x: x.astype(DTYPE.value), params)
    return model, params, {}, []


def from_hub() -> Loaded:
    """A model of the hub, the hub's names of our leaves, and its tokenizer's files."""
    path = SOURCE.value
    if path.startswith(packages.PREFIX):
        path = str(packages.fetch(path, consent=DOWNLOAD.value or None))
    stored = open_model(path)
    model = stored.model()
    params = read_params(stored, model, dtype=DTYPE.value)
    entries = check(stored, abstract(model)[0])
    names = {leaf: entry.name for entry in entries for leaf in entry.paths}
    files = (stored.path / name for name in BESIDE)
    return model, params, names, [file for file in files if file.is_file()]


def write_checkpoint(model: Any, params: Any, target: Path) -> None:
    """A checkpoint of step 0 that holds weights and the model's config alone.

    Raises:
      ValueError: the model is no language model, or the target has checkpoints.
    """
    if type(model) is not LanguageModel:
        raise ValueError(
            f"{SOURCE.value} is a {type(model).__name__}; a checkpoint is of a "
            "LanguageModel. Give the folder itself to init, which takes what fits"
        )
    if (target / FOLDER).exists():
        raise ValueError(f"{target / FOLDER} exists; give a new folder")
    data, positions = DataConfig(), model.cfg.positions
    if isinstance(positions, Learned) and positions.max_length < data.seq_len:
        data = DataConfig(seq_len=positions.max_length)
    checkpoints = Checkpoints(target, RunConfig(model=model.cfg, data=data))
    checkpoints.save(State(np.zeros((), np.int32), params, {}, {}, {}))
    checkpoints.close()


if __name__ == "__main__":
    cli.launch(main)
