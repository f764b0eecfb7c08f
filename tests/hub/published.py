"""The largest published member of every family: `python -m tests.hub.published`.

published.json has their config.json, as far as a model depends on it, and

  published: the number of parameters in its makers' paper or model card (DeBERTa's:
    304M and 131M of embeddings); null where they give none of the same model: 213M of
    the Transformer of 2017 is with "about 37000" tokens, XLNet's is "as BERT",
    Gemma's has 128 tokens more, GPT-J's 610 vectors of size D.
  parameters: what transformers 5.23.0 counts on torch's meta device, for the same
    config; for T5 1.1, mT5, umT5 and Falcon with the output table that their files
    have, which transformers ties unless it has read it.
  buffers: how many numbers more their files have that transformers does not train: the
    bias of DeepSeek's routers, of BART's logits. They are leaves of ours.
"""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from llmjax.hub import families
from llmjax.hub.binding import bind
from llmjax.hub.stored_model import HEADS

MODELS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_suffix(".json").read_text()
)
UNITS = {"B": 10**9, "M": 10**6, "": 1}


def build(config: dict[str, Any]) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The model of a config.json, and the shapes of its leaves, each at the hub."""
    # `llmjax.hub.load` is the function, in the package of this name
    from llmjax.hub.load import abstract

    family = families.family(config["model_type"])
    cfg = family.to_config(config)
    head = family.architectures[config["architectures"][0]]
    model = HEADS[head](cfg)
    shapes = abstract(model)[0]
    bind(family.table(cfg), shapes)
    return model, shapes


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    """The number of values in leaves of these shapes."""
    return sum(map(math.prod, shapes.values()))


def span(published: str) -> tuple[float, float]:
    """The range that a published number may stand for: one of its last digit away."""
    match = re.fullmatch(r"([\d,]+)(\.\d+)?([BM]?)", published)
    assert match, published
    digits = match[1].replace(",", "") + (match[2] or "")
    unit = UNITS[match[3]]
    last = 0 if unit == 1 else unit / 10 ** len((match[2] or ".")[1:])
    return float(digits) * unit - last, float(digits) * unit + last


def main() -> int:
    print(f"{'model':58}{'published':>17}{'transformers':>17}{'llmjax':>17}")
    wrong = 0
    for entry in MODELS:
        ours = count(build(entry["config"])[1]) - entry["buffers"]
        wrong += ours != entry["parameters"]
        published = entry["published"] or "-"
        print(
            f"{entry['model']:58}{published:>17}{entry['parameters']:>17,}{ours:>17,}"
        )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
