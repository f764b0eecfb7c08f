"""SentencePiece's `.model` (Kudo & Richardson 2018, arXiv:1808.06226)."""

import re
from typing import Any

import tokenizers
from etils import epath
from google.protobuf import message  # type: ignore[import-untyped]
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmjax.data.tokenizers.byte_level import SPACE
from llmjax.data.tokenizers.merges import Cuts

proto: Any = sentencepiece_model_pb2  # generated, without types
_Piece = proto.ModelProto.SentencePiece


def convert(
    path: epath.Path, data: bytes
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The same tokenizer in the library `tokenizers`, and its specials by name.

    Where two ways to cut a text score the same, Unigram may choose the other one.

    Args:
      path: of the file, for errors.
      data: the file, a protocol buffer.

    Raises:
      ValueError: a broken file, or a model that is neither unigram nor BPE.
    """
    model = proto.ModelProto()
    try:
        model.ParseFromString(data)
    except message.DecodeError as e:
        raise ValueError(f"{path} is no SentencePiece model: {e}") from e
    if not model.pieces:
        raise ValueError(
            f"{path} is no SentencePiece model: it has no pieces; accepted are also a "
            "tokenizer.json and tiktoken ranks"
        )
    trainer, kinds = model.trainer_spec, proto.TrainerSpec.ModelType
    if trainer.model_type not in (kinds.UNIGRAM, kinds.BPE):
        raise ValueError(
            f"{path} is a SentencePiece model of type "
            f"{kinds.Name(trainer.model_type)}; accepted: UNIGRAM, BPE"
        )
    if trainer.treat_whitespace_as_suffix:
        raise ValueError(
            f"{path} puts white space behind words (treat_whitespace_as_suffix); only "
            "models that put it before them are read"
        )
    by_kind: dict[Any, list[str]] = {}
    for piece in model.pieces:
        by_kind.setdefault(piece.type, []).append(piece.piece)
    users = by_kind.get(_Piece.USER_DEFINED, [])
    build = _unigram if trainer.model_type == kinds.UNIGRAM else _bpe
    inner = tokenizers.Tokenizer(build(path, model, bool(users)))
    steps, undo = _normalizer(model.normalizer_spec)
    inner.normalizer = normalizers.Sequence(steps) if steps else None
    if users:
        inner.pre_tokenizer = _split_at(users)
    inner.decoder = decoders.Sequence(undo)
    hidden = (_Piece.UNKNOWN, _Piece.CONTROL, _Piece.UNUSED)
    inner.add_special_tokens([p.piece for p in model.pieces if p.type in hidden])
    specials = {}
    for name in ("bos", "eos", "pad", "unk"):
        i = getattr(trainer, f"{name}_id")
        if 0 <= i < len(model.pieces):
            specials[name] = model.pieces[i].piece
    return inner, specials


def _unigram(path: epath.Path, model: Any, users: bool) -> models.Model:
    del path, users  # alone between two cuts their score of 0 is the best
    unknown = [i for i, p in enumerate(model.pieces) if p.type == _Piece.UNKNOWN]
    return models.Unigram(
        [(p.piece, p.score) for p in model.pieces],
        unk_id=unknown[0] if unknown else None,
        byte_fallback=_byte_fallback(model),
    )


def _bpe(path: epath.Path, model: Any, users: bool) -> models.Model:
    """Byte-pair merges from scores: neighbours are joined best-scored piece first, so
    every way to cut a piece in two pieces is a merge."""
    vocab = {p.piece: i for i, p in enumerate(model.pieces)}
    normal = {p.piece: p.score for p in model.pieces if p.type == _Piece.NORMAL}
    cuts = Cuts(normal, str(path))
    best = sorted(normal, key=lambda token: -normal[token])
    merges = [pair for token in best for pair in cuts.of(token)]
    unknown = [p.piece for p in model.pieces if p.type == _Piece.UNKNOWN]
    return models.BPE(
        vocab,
        merges,
        unk_token=unknown[0] if unknown else None,
        fuse_unk=True,
        byte_fallback=_byte_fallback(model),
        ignore_merges=users,  # no merge makes what a user defined
    )


def _byte_fallback(model: Any) -> bool:
    return any(p.type == _Piece.BYTE for p in model.pieces)


def _normalizer(spec: Any) -> tuple[list[Any], list[Any]]:
    """Steps from text to the spelling of pieces, and those that undo them."""
    steps: list[Any] = []
    undo: list[Any] = [decoders.ByteFallback(), decoders.Fuse()]
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(tokenizers.Regex("^ +| +$"), ""))
        steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
        undo.append(decoders.Strip(" ", 1, 0))
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
        undo.insert(0, decoders.Replace(SPACE, " "))
    return steps, undo


def _split_at(users: list[str]) -> pre_tokenizers.PreTokenizer:
    """Cuts out the user-defined symbols, the longest first."""
    longest = sorted(users, key=len, reverse=True)
    pattern = "|".join(re.escape(token) for token in longest)
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
