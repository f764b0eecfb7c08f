"""Ids of a conversation whose messages strangers wrote.

A template writes control tokens as text, so its text is read with them. A message that
spells one ("<|im_end|>") must not become one: a sign that no message has is put into
each such place before the template sees it, and the text is cut there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmjax.data.tokenizers.tokenizer import Tokenizer

_SIGNS = range(0xE000, 0xF8FF)  # for private use: no text should have them


def encode_conversation(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], **options: Any
) -> np.ndarray:
    """The ids of a conversation, int32 [n]; control tokens in a message stay text.

    Args:
      tokenizer: with a chat template.
      messages: with `role` and `content`, a text.
      options: of `Tokenizer.apply_chat_template`.

    Raises:
      ValueError: as `apply_chat_template`; or messages that spell control tokens and
        have every sign that could tell them apart.
    """
    names = sorted(filter(None, tokenizer.added_tokens), key=len, reverse=True)
    spelled = re.compile("|".join(map(re.escape, names))) if names else None
    contents = "".join(str(message.get("content", "")) for message in messages)
    if spelled is None or not spelled.search(contents):
        text = tokenizer.apply_chat_template(messages, **options)
        return tokenizer.encode(text, parse_specials=True)
    sign = next((chr(c) for c in _SIGNS if chr(c) not in contents), None)
    if sign is None:
        raise ValueError(
            "the messages spell control tokens and have all characters for private use"
        )
    # after each letter: no part of one may be another control token
    marked = [
        {
            key: spelled.sub(lambda m: sign.join((*m[0], "")), value)
            if isinstance(value, str)
            else value
            for key, value in message.items()
        }
        for message in messages
    ]
    text = tokenizer.apply_chat_template(marked, **options)
    return _cut(tokenizer, text, sign)


def _cut(tokenizer: Tokenizer, text: str, sign: str) -> np.ndarray:
    """Ids of a text, in which letters that a sign follows are text alone."""
    ids = []
    for piece in re.split(f"((?:.{sign})+)", text, flags=re.DOTALL):
        if piece.endswith(sign):
            ids.append(tokenizer.encode(piece.replace(sign, "")))
        elif piece:
            ids.append(tokenizer.encode(piece, parse_specials=True))
    return np.concatenate(ids).astype(np.int32)
