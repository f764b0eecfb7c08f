"""The bytes that each token stands for, in every kind of tokenizer."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "▁"  # SentencePiece's


def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE (Radford et al. 2019): printable bytes as they
    are, the others shifted to 256 and up, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    shifted = {chr(256 + k): b for k, b in enumerate(others)}
    return {chr(b): b for b in printable} | shifted


def steps(described: Mapping[str, Any], *parts: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a tokenizer's `parts`, such as "decoder"; sequences unrolled."""
    for part in parts:
        pending = [described.get(part)]
        while pending:
            step = pending.pop(0)
            if step is None:
                continue
            nested = [
                k for k in ("normalizers", "pretokenizers", "decoders") if k in step
            ]
            if nested:
                pending = [*step[nested[0]], *pending]
            else:
                yield step


def is_byte_level(described: Mapping[str, Any]) -> bool:
    """Whether every token is a run of bytes in the alphabet of byte-level BPE."""
    all_steps = steps(described, "normalizer", "pre_tokenizer", "decoder")
    return any(step["type"] == "ByteLevel" for step in all_steps)


def are_words(described: Mapping[str, Any]) -> bool:
    """Whether tokens are words and their pieces, and white space is dropped."""
    return described["model"]["type"] in ("WordPiece", "WordLevel")


def begins_with_space(described: Mapping[str, Any]) -> bool:
    """Whether a space that the text has not is put before it."""
    if are_words(described):
        return True
    for step in steps(described, "normalizer", "pre_tokenizer"):
        if step["type"] == "Prepend":
            return True
        if step["type"] == "ByteLevel" and step["add_prefix_space"]:
            return True
        if step["type"] == "Metaspace" and step["prepend_scheme"] != "never":
            return True
    return False


def unknown(described: Mapping[str, Any]) -> str | None:
    """The token for text that the others can't spell."""
    model = described["model"]
    if model["type"] == "Unigram":
        i = model["unk_id"]
        return None if i is None else model["vocab"][i][0]
    return model.get("unk_token")


def spell(
    described: Mapping[str, Any], vocab: Mapping[str, int], size: int
) -> list[bytes]:
    """The bytes of each id; b"" for specials and for ids without a token.

    Exact for byte-level tokenizers and for SentencePiece's with byte fallback, but for
    the space that the latter put before a text. WordPiece drops white space: a word's
    first piece counts one space before it, punctuation none. What an unknown token
    replaced is not counted.

    Args:
      described: the tokenizer's json.
      vocab: token -> id, added tokens included.
      size: number of ids.
    """
    model = described["model"]
    added = {t["content"]: t["special"] for t in described["added_tokens"]}
    unknown_token = unknown(described)
    alphabet = byte_of_character() if is_byte_level(described) else {}
    words = are_words(described)
    prefix = model.get("continuing_subword_prefix") if words else None
    suffix = model.get("end_of_word_suffix")
    spaced = any(
        step["type"] == "Metaspace" or SPACE in str(step)
        for step in steps(described, "normalizer", "pre_tokenizer", "decoder")
    )

    def text_of(token: str) -> bytes:
        if byte := model.get("byte_fallback") and _BYTE.fullmatch(token):
            return bytes([int(byte[1], 16)])
        if alphabet and all(c in alphabet for c in token):
            return bytes(alphabet[c] for c in token)
        if suffix and token.endswith(suffix):
            token = token.removesuffix(suffix) + " "
        elif words and prefix and token.startswith(prefix):
            token = token.removeprefix(prefix)
        elif words and token[:1].isalnum():
            token = " " + token
        return (token.replace(SPACE, " ") if spaced else token).encode()

    spelled = [b""] * size
    for token, i in vocab.items():
        if token in added:
            spelled[i] = b"" if added[token] else token.encode()
        elif token != unknown_token:
            spelled[i] = text_of(token)
    return spelled
