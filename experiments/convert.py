r"""Converts models between the hub's formats and a checkpoint of llmjax.

    python -m experiments.convert --source=path/to/hub/folder --target=runs/llama
    python -m experiments.convert --source=model.gguf --target=out --to=hub
    python -m experiments.convert --source=runs/quickstart/pretrain --target=out

    python -m experiments.convert --source=runs/lora --target=adapter --adapters
    python -m experiments.convert --source=HUB_FOLDER --adapter=adapter --target=out \
        --to=hub

The source is a folder of the hub, a .gguf file, package:NAME or the workdir of a run,
of which the best checkpoint is taken, or `--step`. The target is a new folder: of a run
the hub's format, otherwise a checkpoint that `init` reads, with weights and the model's
config alone. Tokenizer and generation_config.json come along, a run's generation
settings from the folder of the hub that it began with. Adapters of a run are merged
into its matrices, or with --adapters written alone in peft's format; --adapter merges
such a folder into a model of the hub.

Of a run's model the part is converted that the hub has a form for: of several
prediction heads the first, a causal language model; of a model of sentence pairs the
masked language model; of a detector of replaced tokens the discriminator. A classifier
of texts keeps the names of its classes, a model of their vectors is a folder of
sentence-transformers. Prints how many tensors were read, what is
tied, known by an older name or left out, and with --leaves every leaf with the hub's
name for it.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import traverse_util

from experiments import cli
from llmjax import hub
from llmjax.config import (
    Adapters,
    CausalLM,
    Checkpoint,
    DataConfig,
    FullTuning,
    Learned,
    RunConfig,
    TextReading,
    wording,
)
from llmjax.hub import (
    forms,
    gguf,
    origin,
    packages,
    text_vectors,
    tokenizer_files,
)
from llmjax.hub.binding import bind
from llmjax.hub.files import float_type, read_json
from llmjax.hub.load import abstract, account, check, read_params
from llmjax.hub.meaning import simplest
from llmjax.hub.origin import GENERATION, HUB, Origin
from llmjax.hub.save import check_head
from llmjax.hub.stored_model import open_model
from llmjax.hub.table import Family
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.multi_token import PredictionHeads, first_head
from llmjax.models.heads.token import TokenClassifier
from llmjax.peft.adapted import of_adapters
from llmjax.tasks.registry import TASKS, make_model, task_of
from llmjax.train.checkpoints.checkpoints import FOLDER, Checkpoints
from llmjax.train.checkpoints.reading import read as read_run
from llmjax.train.checkpoints.weights import load_tokenizer
from llmjax.train.state import State

SOURCE = flags.DEFINE_string("source", "", "a hub folder, .gguf, package:NAME or run")
TARGET = flags.DEFINE_string("target", "", "a new folder")
TO = flags.DEFINE_enum(
    "to", None, ["checkpoint", "hub"], "format of the target; the other one if absent"
)
FAMILY = flags.DEFINE_string("family", None, "model_type to write; any that fits")
DTYPE = flags.DEFINE_string("dtype", None, "type of the weights; as stored")
STEP = flags.DEFINE_integer("step", None, "of a run's checkpoint; the best when absent")
LEAVES = flags.DEFINE_bool("leaves", False, "print every leaf and its name in the hub")
ADAPTERS = flags.DEFINE_bool(
    "adapters", False, "of a run its adapters alone, as peft's"
)
ADAPTER = flags.DEFINE_string("adapter", None, "a folder of peft's, to be merged")
DOWNLOAD = flags.DEFINE_bool("download", False, "agree to download a package")
SHOWN = 4  # names of tensors that are printed


def main() -> dict[str, Any]:
    if DTYPE.value is not None:
        float_type(DTYPE.value)
    run = (Path(SOURCE.value).expanduser() / FOLDER).is_dir()
    if ADAPTER.value and run:
        raise ValueError(
            f"--adapter={ADAPTER.value} is merged into a model of the hub, and "
            f"--source={SOURCE.value} is a run; give the folder of the adapters' base"
        )
    if ADAPTERS.value:
        return adapters_of_run()
    to_hub = (TO.value or (HUB if run else "checkpoint")) == HUB
    with contextlib.ExitStack() as stack:
        source = from_run() if run else from_hub()
        model, params, names, beside, facts = stack.enter_context(source)
        if to_hub:
            target = TARGET.value
            family = hub.save(model, params, target, family=FAMILY.value, beside=beside)
            written, names = f"hub, {family.name}", names_in(family, model)
        else:
            write_checkpoint(model, params, Path(TARGET.value).expanduser(), beside)
            written = "checkpoint"
    leaves = traverse_util.flatten_dict(params, sep="/")
    if LEAVES.value:
        for path, leaf in leaves.items():
            shape = "x".join(map(str, leaf.shape))
            line = f"{path:64} {shape:>20} {leaf.dtype!s:9} {names.get(path, '')}"
            print(line.rstrip())
    return {
        "source": SOURCE.value,
        "target": TARGET.value,
        "written": written,
        "leaves": len(leaves),
        "parameters": sum(leaf.size for leaf in leaves.values()),
        "types": sorted({str(leaf.dtype) for leaf in leaves.values()}),
        "tied_head": has_tied_head(model, leaves),
        "beside": [file.name for file in beside],
        **facts,
    }


def adapters_of_run() -> dict[str, Any]:
    """A run's adapters in peft's format, with its tokenizer.

    Raises:
      ValueError: the source has none, or peft's format can't say them.
    """
    step, config, params = read_run(SOURCE.value, STEP.value, merge=False)
    if not isinstance(config.peft, Adapters):
        raise ValueError(
            f"--adapters: {SOURCE.value} has peft.kind={config.peft.kind!r} and thus "
            "no adapters; leave the flag out"
        )
    model = make_model(dataclasses.replace(config, peft=FullTuning()))
    base = config.init.path if isinstance(config.init, Checkpoint) else ""
    with tempfile.TemporaryDirectory() as folder:
        _, beside = origin_of(config, Path(folder))
        hub.adapters.save(
            model,
            params,
            config.peft,
            TARGET.value,
            base=base,
            family=FAMILY.value,
            beside=beside,
        )
    leaves = traverse_util.flatten_dict(params, sep="/")
    own = {k: x for k, x in leaves.items() if of_adapters(config.peft, k)}
    return {
        "source": SOURCE.value,
        "target": TARGET.value,
        "written": f"{config.peft.kind} adapters of {base or 'random weights'}",
        "leaves": len(own),
        "parameters": sum(leaf.size for leaf in own.values()),
        "types": ["float32"],
        "tied_head": False,
        "beside": [file.name for file in beside],
        "step": step,
    }


def has_tied_head(model: Any, leaves: Collection[str]) -> bool:
    """Whether the model gives scores to tokens, by the table that embeds them."""
    headless = isinstance(model, Encoder | SequenceClassifier | TokenClassifier)
    tied = model.cfg.tie_embeddings and "unembedding" not in leaves
    return tied and not headless


def names_in(family: Family, model: Any) -> dict[str, str]:
    """The hub's name of each leaf of a model that is written as a family's."""
    table = family.table(simplest(model.cfg))
    bare = table.base if isinstance(model, Encoder) else ""
    entries = bind(table, abstract(model)[0])
    return {leaf: e.name.removeprefix(bare) for e in entries for leaf in e.paths}


def describe(result: Mapping[str, Any]) -> str:
    """The result in words."""
    step = f", step {result['step']:,}" if "step" in result else ""
    tensors = result.get("tensors", {})
    hint = "" if LEAVES.value else "; --leaves prints them"
    rows = {
        "source": f"{result['source']}{step}",
        "target": result["target"],
        "written": result["written"],
        "leaves": f"{result['leaves']:,}{hint}",
        "parameters": f"{result['parameters']:,}, {', '.join(result['types'])}",
        "tensors read": f"{tensors['read']:,}" if tensors else "",
        "older names": some(tensors.get("older", ())),
        "copies": some(tensors.get("copies", ())),
        "left out": some([*result.get("left_out", ()), *tensors.get("unread", ())]),
        "tied": "the head is the table of the tokens" if result["tied_head"] else "",
        "beside": ", ".join(result["beside"]) or "no tokenizer",
    }
    return wording.table(rows)


def some(names: Sequence[str]) -> str:
    """The number of names, and the first of them."""
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names):,}: {', '.join(names[:SHOWN])}{more}" if names else ""


# model, params, leaf -> the hub's name, files to copy along, what else is told
Loaded = tuple[Any, Any, dict[str, str], list[Path], dict[str, Any]]


@contextlib.contextmanager
def from_run() -> Iterator[Loaded]:
    """The model of a run, in the form that the hub has for it.

    Raises:
      ValueError: the hub has no form of the task's model.
    """
    step, config, params = read_run(SOURCE.value, STEP.value)
    model, params, left_out = hub_form(config, params)
    facts = {"step": step, "left_out": left_out}
    if DTYPE.value is not None:
        params = jax.tree.map(lambda x: x.astype(DTYPE.value), params)
    with tempfile.TemporaryDirectory() as folder:
        about, beside = origin_of(config, Path(folder))
        about = dataclasses.replace(about, reading=reading_of(config))
        yield model.clone(origin=about), params, {}, beside, facts


def reading_of(config: RunConfig) -> TextReading | None:
    """The way to a vector of a text that a run has learned; None: none."""
    reading = TASKS[type(config.task)].reading_of(config.task)
    if reading is None:
        return None
    seq_len, positions = config.data.seq_len, config.model.positions
    length = min(reading.max_length or seq_len, seq_len)
    if isinstance(positions, Learned):
        length = min(length, positions.max_length)
    return dataclasses.replace(reading, max_length=length)


def hub_form(config: RunConfig, params: Any) -> tuple[Any, Any, list[str]]:
    """A run's model and parameters as a class that the hub has, and what it leaves out.

    Raises:
      ValueError: there is no such class.
    """
    model: Any = make_model(config)
    if isinstance(model, PredictionHeads):  # its own model has the last layer apart
        params = first_head(config.model, params, model.depth)
        model = LanguageModel(config.model, config.layout)
    model = forms.form(model)
    check_head(model)
    if type(model).__name__ not in forms.heads():
        raise ValueError(
            f"--source={SOURCE.value} has task.kind={config.task.kind!r}, whose "
            f"{type(model).__name__} no format of the hub holds; they hold "
            f"{', '.join(sorted(forms.heads()))}"
        )
    own = {path.split("/")[0] for path in abstract(model)[0]}
    kept = {name: leaf for name, leaf in params.items() if name in own}
    return model, kept, sorted(params.keys() - own)


def origin_of(config: RunConfig, folder: Path) -> tuple[Origin, list[Path]]:
    """The origin to write beside a run's model, and its tokenizer's files.

    Args:
      config: of the run.
      folder: an empty one for files that are not on disk.
    """
    kept = Path(SOURCE.value).expanduser() / HUB
    if (kept / "config.json").is_file():  # converted from the hub
        hf = read_json(kept / "config.json")
        about = origin.read(kept, str(hf.get("model_type")), hf)
        return about, tokenizer_files.beside(kept)
    about, hf = Origin(), {}
    begun = Path(config.init.path if isinstance(config.init, Checkpoint) else folder)
    file = begun.expanduser() / "config.json"
    if file.is_file() and "model_type" in (hf := read_json(file)):
        about = origin.read(file.parent, str(hf["model_type"]), hf)
    begun_with = hf.get("max_position_embeddings") or hf.get("n_positions") or 0
    longest = max(config.data.seq_len, begun_with)
    texts = TASKS[type(config.task)].head is not None
    try:
        tokenizer = load_tokenizer(SOURCE.value, config)
    except (FileNotFoundError, ValueError) as e:
        print(f"the target gets no tokenizer: {e}", file=sys.stderr)
        ids = {}
    else:
        whole = texts or config.model.architecture == "encoder"
        # a classifier's texts are cut where they were cut in training
        read = config.data.seq_len if texts else longest
        if isinstance(positions := config.model.positions, Learned):
            read = min(read, positions.max_length)
        tokenizer_files.write(tokenizer, folder, read, ends=whole)
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        }
        if config.model.architecture == "encoder_decoder":
            start = getattr(config.task, "decoder_start", None)
            ids["decoder_start_token_id"] = tokenizer.bos_id if start is None else start
    fields = json.loads(about.config) | ids | {"max_position_embeddings": longest}
    about = dataclasses.replace(about, config=json.dumps(fields))
    return about, tokenizer_files.beside(folder)


@contextlib.contextmanager
def from_hub() -> Iterator[Loaded]:
    """A model of the hub, the hub's names of our leaves, and its tokenizer's files."""
    path = SOURCE.value
    if path.startswith(packages.PREFIX):
        path = str(packages.fetch(path, consent=DOWNLOAD.value or None))
    stored = open_model(path)
    model: Any = stored.model()
    if stored.path.is_dir():
        reading = text_vectors.read(stored.path)
        about = dataclasses.replace(model.origin, reading=reading)
        model = model.clone(origin=about)
    params = read_params(stored, model, dtype=DTYPE.value)
    if ADAPTER.value:
        params = hub.adapters.merged(ADAPTER.value, model, params)
    entries = check(stored, abstract(model)[0])
    names = {leaf: entry.name for entry in entries for leaf in entry.paths}
    with tempfile.TemporaryDirectory() as folder:
        beside = tokenizer_files.beside(stored.path)
        if stored.path.is_file():
            beside = tokenizer_of_gguf(stored.path, Path(folder))
        tensors = account(stored, entries)._asdict()
        yield model, params, names, beside, {"tensors": tensors}


def tokenizer_of_gguf(path: Path, folder: Path) -> list[Path]:
    """The tokenizer in a .gguf file as files in a folder; none where it has none."""
    metadata = gguf.read_metadata(path)
    if "tokenizer.ggml.tokens" not in metadata:
        return []
    name = metadata.get("general.architecture")
    longest = metadata.get(f"{name}.context_length") or DataConfig().seq_len
    try:
        return tokenizer_files.write(hub.tokenizer(path), folder, longest)
    except ValueError as e:
        print(f"the target gets no tokenizer: {e}", file=sys.stderr)
        return []


def write_checkpoint(model: Any, params: Any, target: Path, beside: list[Path]) -> None:
    """A checkpoint of step 0 that holds weights and the model's config alone.

    Beside it lie the source's own files, for the way back.

    Raises:
      ValueError: a model of a class that no run has, or the target has checkpoints.
    """
    task = CausalLM() if type(model) is LanguageModel else task_of(model)
    if task is None:
        raise ValueError(
            f"{SOURCE.value} is a {type(model).__name__}; a checkpoint is of a "
            "LanguageModel, an Encoder, a TokenClassifier, a SpanFinder or a "
            "SequenceClassifier. Give the folder itself to init, which takes what fits"
        )
    if (target / FOLDER).exists():
        raise ValueError(f"{target / FOLDER} exists; give a new folder")
    data, positions = DataConfig(), model.cfg.positions
    if isinstance(positions, Learned) and positions.max_length < data.seq_len:
        data = DataConfig(seq_len=positions.max_length)
    if TASKS[type(task)].head:
        longest = tokenizer_files.longest(model, beside) or data.seq_len
        data = dataclasses.replace(data, packing="pad", seq_len=longest)
    if model.origin.reading is not None:
        kind = TASKS[type(task)]
        task = kind.with_reading(task, model.origin.reading, data)
    checkpoints = Checkpoints(target, RunConfig(model.cfg, task, data))
    checkpoints.save(State(np.zeros((), np.int32), params, {}, {}, {}))
    checkpoints.close()
    (target / HUB).mkdir(exist_ok=True)
    hf = json.loads(model.origin.config) | {"model_type": model.origin.family}
    (target / HUB / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
    if model.origin.generation:
        (target / HUB / GENERATION).write_text(model.origin.generation)
    for file in beside:
        shutil.copyfile(file, target / HUB / file.name)


if __name__ == "__main__":
    cli.launch(main, ("source", "target"), describe)
