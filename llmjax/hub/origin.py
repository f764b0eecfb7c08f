"""Contents of a hub folder beyond a `ModelConfig`, kept from loading to saving."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmjax.config import TextReading

GENERATION = "generation_config.json"
HUB = "hub"  # folder of a checkpoint with the files of the folder that it came from
# keys that hold for the same weights in any family
KEPT = (
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
# keys that are said anew, or that name what is not copied
DROPPED = (
    "architectures",
    "model_type",
    "dtype",
    "torch_dtype",
    "auto_map",
    "_name_or_path",
    "transformers_version",
)
# family -> what a key says once its model is saved: of two names of a head, the older
RENEWED: dict[str, dict[str, Any]] = {"deberta-v2": {"legacy": True}}


@dataclasses.dataclass(frozen=True, repr=False)
class Origin:
    """The files that a model came from, as far as `save` writes them again.

    Attributes:
      family: `model_type` of the folder; "": none.
      config: config.json, or some of its keys.
      generation: generation_config.json; "": there is none.
      reading: the way to a vector of a text, which `save` writes as the files of
        sentence-transformers; None: not said.
    """

    family: str = ""
    config: str = "{}"
    generation: str = ""
    reading: TextReading | None = None


def read(folder: Path, family: str, hf: Mapping[str, Any]) -> Origin:
    """The origin of a folder whose config.json is `hf`."""
    file = folder / GENERATION
    generation = ""
    if file.is_file():
        try:
            generation = json.dumps(json.loads(file.read_bytes()), indent=2) + "\n"
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{file} is not json: {str(e)[:200]}") from e
    return Origin(family, json.dumps(hf), generation)


def merged(
    hf: dict[str, Any],
    family: str,
    origin: Origin | None,
    same: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """A family's config.json for a model, with what its origin says besides.

    Args:
      hf: what the family writes.
      family: `model_type` of the family.
      origin: of the model; None: it was not loaded.
      same: whether a config.json still means the model.
    """
    own = json.loads(origin.config) if origin else {}
    new = RENEWED.get(origin.family, {}) if origin else {}
    own = {k: new.get(k, v) for k, v in own.items() if k not in DROPPED}
    if "n_positions" in hf:  # transformers takes the other for the same key
        own.pop("max_position_embeddings", None)
    if origin is None or not own:
        return hf
    if origin.family == family and same(own):
        return own
    for key, value in own.items():
        keep = key in KEPT or (origin.family == family and key not in hf)
        if keep and same(hf | {key: value}):
            hf = hf | {key: value}
    return hf
