"""tiktoken's files: a line per token, its bytes in base64 and its rank."""

import base64
import binascii
from collections.abc import Mapping

import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers

from llmjax.data.tokenizers.byte_level import byte_of_character
from llmjax.data.tokenizers.merges import Cuts

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"
# tiktoken's own encodings (openai_public.py): the pattern that splits a text, the
# number of ranks, the specials' ids
ENCODINGS: dict[str, tuple[str, int, dict[str, int]]] = {
    "gpt2": (GPT2, 50256, {END: 50256}),
    "r50k_base": (GPT2, 50256, {END: 50256}),
    "p50k_base": (GPT2, 50280, {END: 50256}),
    "cl100k_base": (
        CL100K,
        100256,
        {
            END: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": (O200K, 199998, {END: 199999, "<|endofprompt|>": 200018}),
}


def convert(
    path: epath.Path, data: bytes, pattern: str | None
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The byte-level BPE with these ranks, and its end by name.

    Two tokens are joined where the ranks hold the joined one, lowest rank first: every
    way to cut a token in two is a merge. Ids without a token become specials.

    Args:
      path: of the file, for errors; its stem ("cl100k_base") gives the pattern and the
        specials.
      data: the file.
      pattern: regular expression that splits a text, instead of the stem's;
        `<|endoftext|>` then comes behind the last rank.

    Raises:
      ValueError: a broken line or pattern, ranks that are missing, or neither one of
        `ENCODINGS` nor a pattern.
    """
    ranks = _parse(path, data)
    pattern, specials = _encoding(path, ranks, pattern)
    try:
        regex = tokenizers.Regex(pattern)
    except Exception as e:  # the library has no narrower type
        raise ValueError(f"the pattern {pattern!r} of {path} is broken: {e}") from e
    characters = {byte: c for c, byte in byte_of_character().items()}
    vocab = {"".join(characters[b] for b in token): r for token, r in ranks.items()}
    cuts = Cuts(vocab, str(path))
    merges = [
        pair
        for token in sorted(vocab, key=vocab.__getitem__)
        for pair in cuts.of(token)
    ]
    # a word that is a token is never built up, as in tiktoken
    inner = tokenizers.Tokenizer(
        models.BPE(vocab | specials, merges, ignore_merges=True)
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(regex, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(sorted(specials, key=specials.__getitem__))
    return inner, {"eos": END}


def _encoding(
    path: epath.Path, ranks: Mapping[bytes, int], pattern: str | None
) -> tuple[str, dict[str, int]]:
    """The pattern that splits a text, and the specials' ids, holes included."""
    used = set(ranks.values())
    name = path.name.split(".")[0]
    if pattern is not None:
        specials = {END: max(used) + 1}
    elif name in ENCODINGS:
        pattern, count, specials = ENCODINGS[name]
        if len(ranks) != count or used & set(specials.values()):
            raise ValueError(
                f"{path} has {len(ranks)} ranks; {name} has {count}. Fetch the file "
                "again, or name it otherwise and set data.tokenizer.pattern"
            )
    else:
        raise ValueError(
            f"{path} holds tiktoken ranks, whose file doesn't say how a text is split; "
            f"name it after one of {', '.join(ENCODINGS)}, or set "
            "data.tokenizer.pattern to the regular expression"
        )
    holes = set(range(max([*used, *specials.values()]))) - used
    holes -= set(specials.values())
    return pattern, specials | {f"<|reserved_{i}|>": i for i in sorted(holes)}


def _parse(path: epath.Path, data: bytes) -> dict[bytes, int]:
    """Token -> rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as e:
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} is not a token in base64 and "
                "its rank; fetch the file again"
            ) from e
    if missing := [b for b in range(256) if bytes([b]) not in ranks]:
        raise ValueError(
            f"{path} has no rank for the byte {missing[0]} (and {len(missing) - 1} "
            "more); is it cut short? Fetch the file again"
        )
    last = max(ranks.values())
    if len(set(ranks.values())) < len(ranks) or not len(ranks) <= last + 1 < 2**20:
        raise ValueError(
            f"{path} gives a rank twice, or one beyond [0, 2^20); fetch the file again"
        )
    return ranks
