"""One table says a family's names and layouts, from the hub's to ours and back.

A line of a table is an `Entry`: the hub's tensor, our leaf, and how the axes of the one
become those of the other, in the letters of `llmjax.parallel.axes`:

    Entry("mlp.up_proj.weight", "mlp/up/kernel", "F D -> D F")
    Entry("attn.q_proj.weight", "attention/query/kernel", "(N H) D -> D N H")

Theirs stands on the left of the arrow. Sizes come from our leaf's shape. Letters in
brackets are one axis, the outer letter first; a number is an axis, or a part of one, of
that size. Where several of our leaves are fused in one tensor of theirs, either `p`
numbers them, in front of ours:

    Entry("attn.c_attn.weight", (query, key, value), "D (p N H) -> p D N H")

or each has a pattern, and theirs are concatenated along the first axis, at its start or
inside the letters of `inside` (DeepSeek's keys and values lie side by side per head):

    Entry("qkv_proj.weight", (query, key), ("(N H) D -> D N H", "(K H) D -> D K H"))
    Entry("kv_b.weight", (key, value), ("(N H) R -> R N H", "(N U) R -> R N U"), "N")

In a `LayerTable` `{l}` in a name is the layer's number, and our leaf is relative to
the block, stacked over the layers of a group; `{e}` anywhere is an expert's number, our
leaf being stacked over experts (after layers). Patterns don't mention these two axes.
`{g}` and `{i}` are the group's number and the layer's within the group's pattern.

A table may list every entry that some member of its family has: an entry whose leaf the
model at hand lacks does not count. So a table seldom needs an `if`; strictness comes
from the model's own tree, each leaf of which must have exactly one entry.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from llmjax.config import ClassifierHead, Group, ModelConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of the hub and the leaf or leaves of ours that it holds; see above.

    Attributes:
      name: the tensor's, with `{l}` and `{e}`.
      leaf: path of the leaf, or of the leaves fused in the tensor.
      pattern: "theirs -> ours", one for all leaves or one for each.
      inside: letters of theirs' first axis within which leaves are concatenated.
    """

    name: str
    leaf: str | tuple[str, ...]
    pattern: str | tuple[str, ...]
    inside: str = ""


@dataclasses.dataclass(frozen=True)
class LayerTable:
    """The names in a stack's layers.

    Attributes:
      prefix: path of the stack in our tree, e.g. "transformer/stack".
      groups: the config's groups: `cfg.layers` or `cfg.encoder_layers`.
      entries: the entries of one layer, their leaves relative to the block.
      first: the hub's number of the first layer. A shared group counts once.
    """

    prefix: str
    groups: tuple[Group, ...]
    entries: tuple[Entry, ...]
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Table:
    """All names of a model.

    Attributes:
      entries: the entries of leaves outside of layers, named by their whole path.
      layers: one table per stack.
      ignored: regular expressions of whole names that a file may carry but that hold
        nothing of ours (buffers, other heads).
      copies: (name, name of the tensor that it repeats): a file has either or both,
        with equal values. A tied head is one without being listed here.
      repeats: (name, name of an entry's tensor): what transformers has too and does
        not read. It is written beside the other, and stands in for it where a file
        lacks that, but is not compared.
      base: the prefix of the bare model's names ("model.", "bert."); bare models, and
        files none of whose names begin with it, go without.
      renamed: (regular expression, replacement) of names that older files have.
    """

    entries: tuple[Entry, ...]
    layers: tuple[LayerTable, ...] = ()
    ignored: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    repeats: tuple[tuple[str, str], ...] = ()
    base: str = ""
    renamed: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Gguf:
    """A family in llama.cpp's format.

    Attributes:
      to_hf: (metadata, name -> `files.StoredTensor`) -> the dict of config.json.
      table: a config's table, with llama.cpp's names.
    """

    to_hf: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    table: Callable[[ModelConfig], Table]


class Classification(NamedTuple):
    """The way from a text's hidden states to scores of classes, or of each token's.

    Attributes:
      pooling, form: of `llmjax.models.heads.classifier.SequenceClassifier`; pooling
        "none" with a form of `llmjax.models.heads.token.TokenClassifier`.
    """

    pooling: Literal["mean", "first", "last", "none"]
    form: ClassifierHead


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A family's way to classes of texts, or of tokens: that of its
    `…ForSequenceClassification`, or `…ForTokenClassification`.

    Attributes:
      to_ours: config.json's dict -> ours; ValueError for what we can't do.
      to_hf: the reverse, its keys alone; ValueError for one that the family lacks.
    """

    to_ours: Callable[[dict[str, Any]], Classification]
    to_hf: Callable[[Classification], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of the hub: its config and its names, both ways.

    Attributes:
      name: config.json's `model_type`.
      architectures: config.json's `architectures` -> class of `llmjax.models.heads`:
        "LanguageModel", "Encoder", "Discriminator", "SequenceClassifier",
        "TokenClassifier", "SpanFinder", "ChoiceScorer". `save` writes the first of a
        class under whose name `to_config` gives the config again.
      to_config: config.json's dict -> ModelConfig; ValueError for what we can't do.
      to_hf: the reverse, without `architectures`, `model_type` and `dtype`; ValueError
        for a config that the family can't express.
      table: a config's table.
      gguf: the family in llama.cpp's format, where it has one.
      classifier: its way to classes of texts, where it has one.
      tagger: its way to classes of tokens, where it has one.
    """

    name: str
    architectures: Mapping[str, str]
    to_config: Callable[[dict[str, Any]], ModelConfig]
    to_hf: Callable[[ModelConfig], dict[str, Any]]
    table: Callable[[ModelConfig], Table]
    gguf: Gguf | None = None
    classifier: Classifier | None = None
    tagger: Classifier | None = None

    def way(self, head: str) -> Classifier | None:
        """The way of a class of `llmjax.models.heads` to classes; None: it has none."""
        ways = {"SequenceClassifier": self.classifier, "TokenClassifier": self.tagger}
        return ways.get(head)
