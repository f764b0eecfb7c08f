"""The tokenizer in a GGUF file's metadata, as llama.cpp writes and reads it."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmjax.data.tokenizers.conventions import NAMES, Conventions
from llmjax.data.tokenizers.library import library_errors
from llmjax.data.tokenizers.merges import Cuts
from llmjax.data.tokenizers.tiktoken_ranks import GPT2

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # kinds of tokens
PREFIX = "tokenizer.ggml."
# the keys of the specials whose name there is another than ours
KEYS = {"pad": "padding", "unk": "unknown", "sep": "seperator"}
# control tokens that end a turn or a text, whether the metadata say so or not
ENDS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
)
# the specials of a SentencePiece vocabulary whose metadata don't say them
SENTENCE_PIECE = {"unk": 0, "bos": 1, "eos": 2}


@dataclasses.dataclass(frozen=True)
class Split:
    """How one of llama.cpp's pre-tokenizers cuts a text into words (llama-vocab.cpp).

    Attributes:
      patterns: regular expressions; each cuts what those before it left.
      whole: a word that is a token is taken whole, though no merges make it.
      bos: a text begins with `bos`, where the file doesn't say.
    """

    patterns: tuple[str, ...]
    whole: bool = False
    bos: bool = False


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
_NAMES: Mapping[Split, str] = {
    Split((_LLAMA3,), whole=True, bos=True): (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"
    ),
    Split((_TEKKEN,), whole=True, bos=True): "tekken",
    Split((_LLAMA3,)): "dbrx smaug-bpe",
    Split((_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),)): (
        "qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan grok-2"
    ),
    Split((r"\p{N}", GPT2)): (
        "smollm starcoder refact command-r codeshell exaone minerva-7b"
    ),
    Split((GPT2,)): "gpt-2 phi-2 olmo mpt jais exaone4 gigachat",
    Split(_DEFAULT): "default",
}
SPLITS = {name: split for split, names in _NAMES.items() for name in names.split()}


def convert(
    path: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, Conventions]:
    """The same tokenizer in the library `tokenizers`, and its conventions.

    What the metadata leave unsaid is as llama.cpp takes it; an id that no token has
    counts as unsaid.

    Args:
      path: for errors.
      metadata: of the file, by key.

    Raises:
      ValueError: no tokenizer, a broken one, or one of a kind that is not understood.
    """
    kind, tokens = metadata.get(f"{PREFIX}model"), metadata.get(f"{PREFIX}tokens")
    if kind not in ("gpt2", "llama") or not _are_texts(tokens):
        raise ValueError(
            f"{path} has a tokenizer of the kind {kind!r}; accepted: 'gpt2' and "
            "'llama', with tokens. Take tokenizer.json of the original model"
        )
    vocabulary = Vocabulary(path, metadata, tokens)
    specials = vocabulary.specials(SENTENCE_PIECE if kind == "llama" else {})
    with library_errors(f"{path} has a broken tokenizer"):
        if kind == "gpt2":
            split = vocabulary.split()
            inner = _byte_level(vocabulary, split)
        else:
            split = Split((), bos=True)
            inner = _sentence_piece(vocabulary, specials.get("unk"))
        _add(inner, vocabulary)
    adds = {"bos": split.bos, "eos": False}
    for name, default in adds.items():
        flag = vocabulary.flag(f"add_{name}_token", default)
        adds[name] = flag and name in specials
    return inner, Conventions(specials, _templates(path, metadata), adds)


def ends(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end a text or a turn, as llama.cpp takes them."""
    listed = metadata.get(f"{PREFIX}tokens")
    tokens = listed if isinstance(listed, list) else []
    count = len(tokens)
    keys = (f"{PREFIX}{name}_token_id" for name in ("eos", "eot", "eom"))
    numbers = [metadata.get(key) for key in keys]
    ids = {i for i in numbers if isinstance(i, int) and 0 <= i < count}
    kinds = metadata.get(f"{PREFIX}token_type")
    if isinstance(kinds, np.ndarray):
        for i in np.flatnonzero(kinds[:count] == CONTROL).tolist():
            ids |= {i} if tokens[i] in ENDS else set()
    return tuple(sorted(ids))


class Vocabulary:
    """The metadata of a tokenizer, each value checked when it is read.

    Args:
      path: of the file, for errors.
      metadata: of the file, by key.
      tokens: the tokens in order of their ids.

    Raises:
      ValueError: a token that stands there twice, a key of another type.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any],
        tokens: Sequence[str],
    ):
        self.path, self.metadata = path, metadata
        # as llama.cpp names those without text
        self.tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(tokens):
            token = next(t for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise ValueError(
                f"{path} has the token {token[:40]!r} twice, {self.ids[token]} the last"
                " time; take tokenizer.json of the original model"
            )
        unsaid = np.ones(len(tokens), np.int32)
        self.kinds: list[int] = self.numbers("token_type", unsaid).tolist()

    def refuse(self, key: str, value: Any, accepted: str) -> ValueError:
        return ValueError(
            f"{self.path}: {PREFIX}{key} is {str(value)[:80]!r}; accepted: {accepted}. "
            "Take tokenizer.json of the original model"
        )

    def numbers(self, key: str, unsaid: np.ndarray | None = None) -> np.ndarray:
        """A number for each token."""
        value = self.metadata.get(f"{PREFIX}{key}", unsaid)
        if not isinstance(value, np.ndarray) or len(value) < len(self.tokens):
            count = f"a number for each of {len(self.tokens)} tokens"
            raise self.refuse(key, value, count)
        return value[: len(self.tokens)]

    def flag(self, key: str, unsaid: bool) -> bool:
        value = self.metadata.get(f"{PREFIX}{key}", unsaid)
        if not isinstance(value, bool):
            raise self.refuse(key, value, "true, false")
        return value

    def specials(self, usual: Mapping[str, int]) -> dict[str, str]:
        """Name of each special -> its token; `usual` has the ids of those unsaid."""
        specials = {}
        for name in NAMES:
            key = f"{KEYS.get(name, name)}_token_id"
            number = self.metadata.get(f"{PREFIX}{key}")
            if not isinstance(number, int | None) or isinstance(number, bool):
                raise self.refuse(key, number, "the id of a token")
            if number is None or not 0 <= number < len(self.tokens):
                number = usual.get(name, -1)
                if self.kinds[number : number + 1] not in ([CONTROL], [UNKNOWN]):
                    continue
            specials[name] = self.tokens[number]
        return specials

    def split(self) -> Split:
        """How a text is cut; as llama.cpp's "default" where the file doesn't say."""
        pre = self.metadata.get(f"{PREFIX}pre") or "default"
        if not isinstance(pre, str) or pre not in SPLITS:
            raise self.refuse("pre", pre, ", ".join(SPLITS))
        return SPLITS[pre]


def _are_texts(tokens: Any) -> TypeGuard[list[str]]:
    return isinstance(tokens, list) and all(isinstance(t, str) for t in tokens)


def _byte_level(vocabulary: Vocabulary, split: Split) -> tokenizers.Tokenizer:
    joined = vocabulary.metadata.get(f"{PREFIX}merges")
    if not _are_texts(joined):
        raise vocabulary.refuse("merges", joined, "a list of pairs of tokens")
    parts = [pair.partition(" ") for pair in joined]
    if lone := next((first for first, space, _ in parts if not space), None):
        raise vocabulary.refuse("merges", lone, "pairs of tokens")
    merges = [(first, second) for first, _, second in parts]
    inner = tokenizers.Tokenizer(
        models.BPE(vocabulary.ids, merges, ignore_merges=split.whole)
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(
                pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
                for pattern in split.patterns
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return inner


def _sentence_piece(
    vocabulary: Vocabulary, unknown: str | None
) -> tokenizers.Tokenizer:
    """Byte-pair merges from scores: of two neighbours the best-scored join goes first.

    Every way to cut a piece in two pieces is a merge, with the piece's score.
    """
    ids, scores = vocabulary.ids, vocabulary.numbers("scores").tolist()
    cuts = Cuts(ids, str(vocabulary.path))
    merges = []
    for token, score, kind in zip(ids, scores, vocabulary.kinds, strict=True):
        if kind in (CONTROL, USER_DEFINED):  # cut out of a text beforehand
            continue
        pairs = sorted(cuts.of(token), key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += [(score, pair) for pair in pairs]
    merges.sort(key=lambda m: -m[0])  # stable
    inner = tokenizers.Tokenizer(
        models.BPE(
            ids,
            [pair for _, pair in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = vocabulary.flag("add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        undo.append(decoders.Strip(" ", 1, 0))
    inner.decoder = decoders.Sequence(undo)
    return inner


def _add(inner: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """Makes the control tokens special and keeps those of users in one piece."""
    pairs = list(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    inner.add_special_tokens([token for token, kind in pairs if kind == CONTROL])
    inner.add_tokens(
        [
            tokenizers.AddedToken(token, normalized=False)
            for token, kind in pairs
            if kind == USER_DEFINED
        ]
    )


def _templates(
    path: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> dict[str, str]:
    """Chat templates by name; the one without a name is the default."""
    key = "tokenizer.chat_template"
    templates = {}
    for name, template in metadata.items():
        if name != key and not name.startswith(f"{key}."):
            continue
        if not isinstance(template, str):
            raise ValueError(
                f"{path}: {name} is a {type(template).__name__}; accepted: a text"
            )
        templates[name.removeprefix(f"{key}.") if name != key else "default"] = template
    return templates
