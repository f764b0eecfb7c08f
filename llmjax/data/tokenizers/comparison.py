"""Whether two tokenizers give every text the same ids."""

import json

import tokenizers

from llmjax.data.tokenizers.tokenizer import Tokenizer

# parts of a tokenizer.json that change no id of a text, or are compared apart
_OTHERS = (
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "post_processor",
    "decoder",
)


def agree(one: Tokenizer, other: Tokenizer, *, grown: bool = False) -> bool:
    """Whether both give every text the same ids, with the same specials before it.

    Args:
      grown: `other` may have more tokens behind the ids of `one`.
    """
    if one.fingerprint == other.fingerprint:
        return True
    both = (one.specials.keys() & other.specials.keys()) - {"pad"}
    alike = all(one.specials[name] == other.specials[name] for name in both)
    if one.frame.beginning != other.frame.beginning or not alike:
        return False
    vocab, more = _vocab(one), _vocab(other)
    if not vocab.items() <= more.items() or (len(vocab) < len(more) and not grown):
        return False
    return _rules(one) == _rules(other)


def difference(one: Tokenizer, other: Tokenizer) -> str:
    """Words for how many tokens of one have the same id in the other."""
    vocab, more = _vocab(one), _vocab(other)
    same = len(vocab.items() & more.items())
    return f"{same:,} of its {len(vocab):,} tokens have the same id there"


def _vocab(tokenizer: Tokenizer) -> dict[str, int]:
    inner = tokenizers.Tokenizer.from_str(tokenizer.json)
    return inner.get_vocab(with_added_tokens=True)


def _rules(tokenizer: Tokenizer) -> dict[str, object]:
    described = json.loads(tokenizer.json)
    return {k: v for k, v in described.items() if k not in _OTHERS}
