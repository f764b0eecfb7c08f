"""The tokenizer in a GGUF file's metadata, as llama.cpp writes it."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmjax.data.tokenizers.conventions import NAMES, Conventions

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens
KEYS = {"pad": "padding", "unk": "unknown", "sep": "seperator"}  # the others as ours

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


def convert(
    path: str | PathLike[str], metadata: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, Conventions]:
    """The same tokenizer in the library `tokenizers`, and its conventions.

    Args:
      path: for errors.
      metadata: of the file, by key.

    Raises:
      ValueError: no tokenizer, or one of a kind that is not understood.
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
        for token, token_kind in zip(tokens, list(kinds), strict=False):
            if token_kind == CONTROL:
                inner.add_special_tokens([token])
            elif token_kind == USER_DEFINED:
                inner.add_tokens([tokenizers.AddedToken(token, normalized=False)])
    except ValueError:
        raise
    except Exception as e:  # the library has no narrower type
        raise ValueError(f"{path} has a broken tokenizer: {e}") from e
    specials = {}
    for name in NAMES:
        number = metadata.get(f"tokenizer.ggml.{KEYS.get(name, name)}_token_id")
        if isinstance(number, int) and number < len(tokens):
            specials[name] = tokens[number]
    # llama.cpp adds a beginning for sentencepiece unless told otherwise
    adds = {"bos": kind == "llama", "eos": False}
    for name in adds:
        flag = metadata.get(f"tokenizer.ggml.add_{name}_token")
        if isinstance(flag, bool):
            adds[name] = flag
    template = metadata.get("tokenizer.chat_template")
    templates = {"default": template} if isinstance(template, str) else {}
    return inner, Conventions(specials, templates, adds)


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
        accepted = ", ".join([*PATTERNS, *DIGITS, *PLAIN])
        raise ValueError(
            f"tokenizer.ggml.pre is {pre!r}; accepted: {accepted}. Take tokenizer.json "
            "of the original model"
        )
    to_bytes = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=pre not in PATTERNS
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence([*split, to_bytes])
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
