"""The special tokens that a tokenizer puts around a text, and around two."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers
from tokenizers import models


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place in a frame: a special token, or a text.

    Attributes:
      token: id of the special token; None where a text stands.
      text: number of the text that stands here, 0 or 1.
      type: token type of all that stands here (BERT's segment).
    """

    token: int | None = None
    text: int = 0
    type: int = 0


@dataclasses.dataclass(frozen=True)
class Frame:
    """Special tokens around one text, and around two, in order."""

    single: tuple[Slot, ...] = (Slot(),)
    pair: tuple[Slot, ...] = (Slot(), Slot(text=1, type=1))

    @staticmethod
    def before(tokens: Sequence[int]) -> "Frame":
        """These before a text, or before two."""
        slots = (*map(Slot, tokens), Slot())
        return Frame(slots, (*slots, Slot(text=1, type=1)))

    @property
    def num_specials(self) -> int:
        """Number of special tokens around one text."""
        return sum(slot.token is not None for slot in self.single)

    @property
    def beginning(self) -> tuple[int, ...]:
        """The special tokens before a text."""
        tokens = [slot.token for slot in self.single]
        return tuple(t for t in tokens[: tokens.index(None)] if t is not None)

    def put_around(self, *texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and token types, int32 [n], of one text or two with the specials."""
        slots = self.single if len(texts) == 1 else self.pair
        ids = [
            texts[slot.text] if slot.token is None else [slot.token] for slot in slots
        ]
        types = np.repeat([slot.type for slot in slots], [len(part) for part in ids])
        return np.concatenate(ids).astype(np.int32), types.astype(np.int32)


def from_post_processor(inner: tokenizers.Tokenizer) -> Frame:
    """The frame of the library's post-processor, of any kind; empty if there is none.

    Read off what the post-processor does to a tokenizer with one token.
    """
    probe = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    probe.post_processor = inner.post_processor

    def slots(encoding: tokenizers.Encoding) -> tuple[Slot, ...]:
        columns = zip(
            encoding.ids, encoding.sequence_ids, encoding.type_ids, strict=True
        )
        return tuple(
            Slot(token=i, type=type_id)
            if text is None
            else Slot(text=text, type=type_id)
            for i, text, type_id in columns
        )

    return Frame(slots(probe.encode("a")), slots(probe.encode("a", "a")))


def bert(cls: int, sep: int) -> Frame:
    """BERT's: [CLS] A [SEP], and [CLS] A [SEP] B [SEP], where the second text and its
    end are of type 1."""
    single = (Slot(cls), Slot(), Slot(sep))
    return Frame(single, (*single, Slot(text=1, type=1), Slot(sep, type=1)))


def with_ends(frame: Frame, bos: int, eos: int, adds: Mapping[str, bool]) -> Frame:
    """The frame, changed where it disagrees with `adds`, as transformers does.

    Args:
      bos, eos: ids of beginning and end.
      adds: "bos" or "eos" -> whether it stands around each text; absent: as in `frame`.
    """
    tokens = [slot.token for slot in frame.single]
    present = {"bos": tokens[:1] == [bos], "eos": tokens[-1:] == [eos]}
    changed = {**present, **adds}
    if changed == present:
        return frame

    def around(text: int) -> tuple[Slot, ...]:
        before = (Slot(bos, type=text),) if changed["bos"] else ()
        after = (Slot(eos, type=text),) if changed["eos"] else ()
        return (*before, Slot(text=text, type=text), *after)

    return Frame(around(0), (*around(0), *around(1)))
