"""A model in the hub's formats, opened: config, names and headers, no weights."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from llmjax import config as config_lib
from llmjax.config import ModelConfig
from llmjax.hub import classes, families, files, gguf, origin, packages
from llmjax.hub.classes import Classes
from llmjax.hub.files import StoredTensor
from llmjax.hub.origin import Origin
from llmjax.hub.shared import settle, stored_names
from llmjax.hub.table import Classification, Family, Table
from llmjax.models.heads.choice import ChoiceScorer
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.replaced_tokens import Discriminator
from llmjax.models.heads.span import SpanFinder
from llmjax.models.heads.token import TokenClassifier

MAX_LAYERS = 10_000  # more than any model has, few enough to list them
# fields that may be larger than any tensor
DISTANCES = ("window", "original_length", "max_distance", "block", "local", "stride")
MAX_NUMBER = 2**31 - 1  # largest size in a config: an index is an int32

CLASSIFIERS = {  # ends of architectures -> what they are
    "ForSequenceClassification": "a classifier of texts",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "ForMultipleChoice": "a classifier of choices",
    "ForNextSentencePrediction": "a classifier of pairs of texts",
    "DoubleHeadsModel": "a language model with a classifier of choices",
}

HEADS: dict[str, Any] = {
    c.__name__: c
    for c in (
        LanguageModel,
        Encoder,
        Discriminator,
        SequenceClassifier,
        TokenClassifier,
        SpanFinder,
        ChoiceScorer,
    )
}


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model on disk, with its headers read and nothing else.

    Attributes:
      path: the folder or file.
      family: family of the model.
      head: name of the model's class in `HEADS`.
      cfg: config of the model.
      table: names of its tensors, in this format.
      tensors: name -> tensor in a file.
      origin: what the folder says besides.
      classes: of a classifier.
    """

    path: Path
    family: Family
    head: str
    cfg: ModelConfig
    table: Table
    tensors: Mapping[str, StoredTensor]
    origin: Origin
    classes: Classes | None = None

    def way_to_classes(
        self, head: str = SequenceClassifier.__name__
    ) -> Classification | None:
        """The way to classes that a fine-tuning of this model takes.

        Args:
          head: "SequenceClassifier" or "TokenClassifier".

        Raises:
          ValueError: the folder asks for one that we can't do.
        """
        if self.classes is not None and self.head == head:
            return self.classes.classification
        hf, classifier = json.loads(self.origin.config), self.family.way(head)
        if classifier is None or not self.path.is_dir():
            return None
        return naming(self.path / "config.json", lambda: classifier.to_ours(hf))

    def model(self) -> nn.Module:
        """The module, without weights."""
        if self.classes is not None:
            return self.classes.model(self.cfg, self.origin)
        return HEADS[self.head](self.cfg, origin=self.origin)


def open_model(path: str | Path) -> StoredModel:
    """The model at `path`, config and headers read; `load` lists paths and errors."""
    if str(path).startswith(packages.PREFIX):
        path = packages.fetch(str(path))
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _open_gguf(path)
    if not path.is_dir():
        raise files.refuse(path)
    config = path / "config.json"
    hf = files.read_json(config)
    family = naming(config, lambda: families.family(hf.get("model_type")))
    heads = family.architectures
    architectures = hf.get("architectures") or [next(iter(heads))]
    if not isinstance(architectures, list) or str(architectures[0]) not in heads:
        raise ValueError(_no_such_head(config, family, architectures))
    cfg = naming(config, lambda: family.to_config(_bounded(hf)))
    tensors: Mapping[str, StoredTensor] = files.open_folder(path)
    cfg = naming(config, lambda: _plausible(cfg, tensors))
    tensors = _renamed(tensors, naming(config, lambda: family.table(cfg)))
    cfg, table, tensors = naming(path, lambda: settle(cfg, family.table, tensors))
    head = heads[architectures[0]]
    cfg = _pooled(cfg, head, table, tensors)
    about = origin.read(path, family.name, hf)
    own = None
    if HEADS[head] in classes.HEADS:
        own = naming(config, lambda: classes.read(family, hf, head))
    return StoredModel(path, family, head, cfg, table, tensors, about, own)


def _pooled(
    cfg: ModelConfig, head: str, table: Table, tensors: Mapping[str, StoredTensor]
) -> ModelConfig:
    """The config without a pooler where the file has none (`add_pooling_layer`)."""
    named = stored_names(table, tensors)
    pooler = [e.name for e in table.entries if str(e.leaf).startswith("pooler/")]
    if head == "Encoder" and not any(named(name) in tensors for name in pooler):
        return dataclasses.replace(cfg, pooler=False)
    return cfg


def _no_such_head(config: Path, family: Family, architectures: Any) -> str:
    """The error for an architecture that the family lacks, a classifier above all."""
    accepted = (
        f"accepted of the family {family.name}: {', '.join(family.architectures)}"
    )
    name = str(architectures[0] if isinstance(architectures, list) else architectures)
    kind = next((kind for kind in CLASSIFIERS if name.endswith(kind)), None)
    if kind is None:
        return f"{config} has architectures {architectures!r}; {accepted}"
    body = next((a for a, h in family.architectures.items() if h == "Encoder"), None)
    return f"{config} is of a {name}, {CLASSIFIERS[kind]}, whose head is not read; " + (
        f"to start from its body, have transformers save that alone: {body}."
        f"from_pretrained(path).save_pretrained(new_path); {accepted}"
        if body
        else accepted
    )


def newer_name(name: str, table: Table) -> str:
    """A tensor's name as the table has it, from an older file's."""
    for old, new in table.renamed:
        name = re.sub(old, new, name)
    return name


def _renamed(
    tensors: Mapping[str, StoredTensor], table: Table
) -> Mapping[str, StoredTensor]:
    """The tensors by the names that the table uses, not those of older files.

    Raises:
      ValueError: two tensors of one name.
    """
    renamed: dict[str, StoredTensor] = {}
    for name, stored in tensors.items():
        name = newer_name(name, table)
        if name in renamed:
            raise ValueError(
                f"{stored.file} has the tensor {name!r} twice, once by an older name; "
                "remove one of them"
            )
        renamed[name] = stored
    return renamed


def _open_gguf(path: Path) -> StoredModel:
    metadata, tensors = gguf.open_gguf(path)
    name = metadata.get("general.architecture")
    family = naming(path, lambda: families.family(name))
    if family.gguf is None:
        raise ValueError(
            f"{path} is of the family {family.name}, whose names in GGUF are unknown "
            "here; load the family's safetensors instead"
        )
    convert, table = family.gguf.to_hf, family.gguf.table
    hf = naming(path, lambda: _bounded(convert(metadata, tensors)))
    cfg = naming(path, lambda: _plausible(family.to_config(hf), tensors))
    head = next(iter(family.architectures.values()))
    names = naming(path, lambda: table(cfg))
    ids = {
        f"{name}_token_id": metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "padding")
    }
    ids["pad_token_id"] = ids.pop("padding_token_id")
    ids["max_position_embeddings"] = hf.get("max_position_embeddings")
    numbers = {k: v for k, v in ids.items() if isinstance(v, int)}
    about = Origin("", json.dumps(numbers))
    return StoredModel(path, family, head, cfg, names, tensors, about)


def naming(path: Path, f: Callable[[], Any]) -> Any:
    """f(), where any error becomes a ValueError that names the file.

    A config is a stranger's, with any types in it.
    """
    try:
        return f()
    except KeyError as e:
        raise ValueError(f"{path} lacks the key {e}") from e
    except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as e:
        raise ValueError(f"{path}: {e}") from e


def _bounded(hf: dict[str, Any]) -> dict[str, Any]:
    """The same dict, after a check that no number in it is absurd.

    Raises:
      ValueError: an absurd size, or a number that is not finite, by key.
    """

    def check(value: Any, key: str) -> None:
        counts_layers = "layer" in key and not isinstance(value, float)
        limit = MAX_LAYERS if counts_layers else MAX_NUMBER
        size = len(value) if isinstance(value, (list, dict)) else value
        if isinstance(size, int) and abs(size) > limit:
            raise ValueError(f"{key} is {size}; accepted: at most {limit}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; accepted: a finite number")
        if isinstance(value, dict):
            for name, item in value.items():
                check(item, str(name))
        elif isinstance(value, list):
            for item in value:
                check(item, key)

    for key, value in hf.items():
        check(value, key)
    return hf


def _plausible(cfg: ModelConfig, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """The same config, after a check that each field is of its type and each size fits
    the file.

    A family only copies what config.json says, and even shapes without values cost
    memory where a size is absurd (the frequencies of a head, say).

    Raises:
      ValueError: a field that is not plausible, by name.
    """
    hash(cfg)  # TypeError for a list or a dict where a number should be
    config_lib.parse({"model": config_lib.to_dict(cfg), "data": {"seq_len": 1}})
    largest = max((math.prod(s.shape) for s in tensors.values()), default=0)

    def check(value: Any, name: str) -> None:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                check(getattr(value, field.name), field.name)
        elif isinstance(value, tuple):
            for item in value:
                check(item, name)
        elif isinstance(value, int) and value > largest and name not in DISTANCES:
            raise ValueError(
                f"{name} is {value}, and no tensor of the file has more than "
                f"{largest} values"
            )

    check(cfg, "model")
    return cfg
