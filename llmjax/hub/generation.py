"""How a model of the hub wants to be continued: generation_config.json, or what a
GGUF file says of its ends."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmjax.data.tokenizers import gguf_vocabulary
from llmjax.hub import files, gguf

FILE = "generation_config.json"
# keys that change what is drawn and are not done here, with their neutral values
OTHERS: Mapping[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0.0,),
    "repetition_penalty": (1.0,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "suppress_tokens": ([],),
    "top_h": (),
    "typical_p": (1.0,),
    "watermarking_config": (),
}
SAMPLED: Mapping[str, float] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}  # transformers' own


@dataclasses.dataclass(frozen=True)
class Generation:
    """Settings of a model's continuations, from its files.

    Attributes:
      sampling: fields of `infer.sampling.Sampling`; empty where they say nothing.
      max_new_tokens: the most tokens of a continuation.
      stop_tokens: ids that end one.
      start_tokens: ids that a decoder with an encoder begins with.
      left_out: what they ask for besides, which `infer.generate` doesn't do.
    """

    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_new_tokens: int | None = None
    stop_tokens: tuple[int, ...] = ()
    start_tokens: tuple[int, ...] = ()
    left_out: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def generation(path: str | Path) -> Generation:
    """Reads generation_config.json of a folder, else its config.json; of a .gguf file
    the tokens that end a text.

    As in transformers the likeliest token is taken unless `do_sample` is true; without
    a generation_config.json the files leave it to the caller.

    Raises:
      ValueError: a broken file, or a value that can't be; with the file and the key.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return Generation(stop_tokens=gguf_vocabulary.ends(gguf.read_metadata(path)))
    file = path / FILE
    if not file.is_file():
        config = Config(path / "config.json")
        return Generation(stop_tokens=config.ids("eos"), start_tokens=config.start())
    config = Config(file)
    left_out = {
        key: value
        for key, neutral in OTHERS.items()
        if (value := config.values.get(key)) is not None and value not in neutral
    }
    return Generation(
        config.sampling(),
        config.whole("max_new_tokens"),
        config.ids("eos"),
        config.start(),
        left_out,
    )


class Config:
    """A json file's values, each checked when it is read; null says nothing."""

    def __init__(self, file: Path):
        self.file, self.values = file, files.read_json(file)

    def refuse(self, key: str, accepted: str) -> ValueError:
        value = str(self.values[key])[:80]
        return ValueError(f"{self.file} has {key} {value}; accepted: {accepted}")

    def real(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not abs(value) < math.inf:
            raise self.refuse(key, "a finite number")
        return float(value)

    def whole(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and (type(value) is not int or value < 0):
            raise self.refuse(key, "a whole number")
        return value

    def ids(self, name: str) -> tuple[int, ...]:
        """One id or several; those below 0 stand for none."""
        key = f"{name}_token_id"
        value = self.values.get(key)
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) in (int, type(None)) for i in ids):
            raise self.refuse(key, "an id, or a list of them")
        return tuple(i for i in ids if i is not None and i >= 0)

    def start(self) -> tuple[int, ...]:
        """The decoder's start, and the token that is forced to come first."""
        return (*self.ids("decoder_start")[:1], *self.ids("forced_bos")[:1])

    def sampling(self) -> dict[str, float]:
        """The fields of a sampler, as transformers reads them."""
        if not self.values.get("do_sample"):
            return {"temperature": 0.0}
        stored = {key: self.real(key) for key in ("temperature", "top_p", "min_p")}
        stored["top_k"] = self.whole("top_k")
        fields = dict(SAMPLED)
        for key, value in stored.items():
            if value is not None:
                fields[key] = value
        if not fields["top_k"]:  # 0 keeps all
            del fields["top_k"]
        return fields
