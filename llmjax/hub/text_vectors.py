"""The files of sentence-transformers beside a model: its way from a text to a vector.

`modules.json` lists a Transformer, a pooling and perhaps a normalization; each has a
folder, but for the first, which is the hub's own. `config_sentence_transformers.json`
has the prompts. Written are the names of the library's versions 2 to 5, which 6 reads.
"""

import json
from pathlib import Path
from typing import Any

from llmjax.config import TextReading
from llmjax.hub.files import read_json
from llmjax.hub.tokenizer_files import CONFIG, UNBOUNDED

MODULES = "modules.json"
LENGTH = "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
_POOLINGS = {"cls": "first", "mean": "mean", "lasttoken": "last"}
_OLD_POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_PASSAGES = ("document", "passage", "corpus")  # names of a passage's prompt


def read(folder: Path) -> TextReading | None:
    """The way to a vector that the files in a folder say; None: they are not there.

    Raises:
      ValueError: a way to a vector that we can't go; it names the file.
    """
    file = folder / MODULES
    if not file.is_file():
        return None
    modules = _modules(file)
    pooling = _pooling(folder / modules[1]["path"] / "config.json")
    prompts, normalize = _prompts(folder / PROMPTS), len(modules) == 3
    passages = (prompts[name] for name in _PASSAGES if name in prompts)
    return TextReading(
        pooling,  # type: ignore[arg-type]
        normalize,
        prompts.get("query", ""),
        next(passages, ""),
        _length(folder),
    )


def _modules(file: Path) -> list[dict[str, Any]]:
    """The entries of modules.json: a Transformer, a pooling, or a normalization too."""
    try:
        entries = json.loads(file.read_bytes())
        kinds = [str(entry["type"]).rpartition(".")[2] for entry in entries]
        paths = [entry["path"] for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ValueError(f"{file} is no list of modules: {str(e)[:200]}") from e
    accepted = ["Transformer", "Pooling", "Normalize"]
    if len(kinds) < 2 or kinds != accepted[: len(kinds)] or paths[0] != "":
        raise ValueError(
            f"{file} has the modules {', '.join(kinds) or 'none'} in "
            f"{', '.join(map(repr, paths))}; accepted: Transformer in '', Pooling, and "
            "Normalize or not. To start from its weights alone, remove the file"
        )
    return entries


def _pooling(file: Path) -> str:
    """The pooling of a module's config, by the name that we have for it."""
    said = read_json(file)
    mode = said.get("pooling_mode")
    if mode is None:
        modes = [name for name, key in _OLD_POOLINGS.items() if said.get(key)]
        mode = modes[0] if len(modes) == 1 else modes or "mean"
    if not isinstance(mode, str) or mode not in _POOLINGS:
        raise ValueError(
            f"{file} has the pooling {mode}; accepted: one of {', '.join(_POOLINGS)}"
        )
    if not said.get("include_prompt", True):
        raise ValueError(
            f"{file} has include_prompt false, which leaves a prompt's tokens out of "
            "the pooling; accepted: true"
        )
    return _POOLINGS[mode]


def _prompts(file: Path) -> dict[str, str]:
    prompts = read_json(file).get("prompts") or {} if file.is_file() else {}
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str) for prompt in prompts.values()
    ):
        raise ValueError(f"{file} has prompts that are no texts by name: {prompts!r}")
    return prompts


def _length(folder: Path) -> int | None:
    """The tokens at which a text is cut; of newer folders the tokenizer's number."""
    own = read_json(folder / LENGTH) if (folder / LENGTH).is_file() else {}
    length = own.get("max_seq_length")
    if length is None and (folder / CONFIG).is_file():
        length = read_json(folder / CONFIG).get("model_max_length")
    if length is None or (isinstance(length, int | float) and length >= UNBOUNDED):
        return None
    if type(length) is not int or length < 1:
        raise ValueError(
            f"{folder / LENGTH} has max_seq_length {length!r}; accepted: a number of "
            "tokens"
        )
    return length


def write(folder: Path, reading: TextReading, size: int) -> None:
    """Writes the files beside a model.

    Args:
      folder: of the model.
      reading: what they say.
      size: numbers of a vector.
    """
    kinds = ["Transformer", "Pooling", *(["Normalize"] if reading.normalize else [])]
    modules = [
        {
            "idx": k,
            "name": str(k),
            "path": f"{k}_{kind}" if k else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for k, kind in enumerate(kinds)
    ]
    chosen = next(name for name, own in _POOLINGS.items() if own == reading.pooling)
    pooling = {"word_embedding_dimension": size} | {
        key: name == chosen for name, key in _OLD_POOLINGS.items()
    }
    prompts = {"query": reading.query_prompt, "document": reading.passage_prompt}
    files: dict[str, Any] = {
        MODULES: modules,
        "1_Pooling/config.json": pooling | {"include_prompt": True},
        PROMPTS: {
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        LENGTH: {"max_seq_length": reading.max_length, "do_lower_case": False},
    }
    for name, value in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(value, indent=2) + "\n")
    if reading.normalize:  # git and zip keep no empty folder
        (folder / "2_Normalize").mkdir()
        (folder / "2_Normalize" / "config.json").write_text("{}\n")
