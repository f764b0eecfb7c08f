"""Tags of words and the entities that they mark, in several schemes.

A tag is "O", or a prefix and a type: B-PER begins an entity, I-PER goes on, E-PER (or
L-) ends one, S-PER (or U-) is one of a single word. An entity goes on from one word to
the next where I or E follows B or I of the same type, and begins at every other tag but
O: so conlleval (Tjong Kim Sang & De Meulder 2003) and seqeval (Nakayama 2018) read all
schemes, whether the tags keep to one or not.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

OUTSIDE = "O"
_ALIASES = {"L": "E", "U": "S"}  # BILOU
_PREFIXES = ("B", "I", "E", "S", *_ALIASES)
_WRITTEN = {"bio": "BI", "bioes": "BIES"}
READ = ("bio", "iob1", "bioes")  # orders of prefixes that can be checked


def parsed(tag: str) -> tuple[str, str] | None:
    """Prefix and type of a tag, ("", "") of O; None: it marks no part of an entity."""
    if tag == OUTSIDE:
        return "", ""
    prefix, dash, kind = tag.partition("-")
    if prefix not in _PREFIXES or (dash and not kind):
        return None
    return _ALIASES.get(prefix, prefix), kind


@dataclasses.dataclass(frozen=True)
class TagSet:
    """The tags of a model or of a corpus, in the order of their numbers.

    Attributes:
      names: of the tags.
    """

    names: tuple[str, ...]

    @classmethod
    def of_types(cls, types: Iterable[str], scheme: str) -> "TagSet":
        """O, and the tags of each type in a scheme."""
        ends = [f"-{kind}" if kind else "" for kind in types]
        tags = [prefix + end for end in ends for prefix in _WRITTEN[scheme]]
        return cls((OUTSIDE, *tags))

    @functools.cached_property
    def plain(self) -> bool:
        """Whether these are tags without entities, such as parts of speech."""
        return any(parsed(name) is None for name in self.names)

    @functools.cached_property
    def _parts(self) -> list[tuple[str, str]]:
        if self.plain:
            return [("S", name) for name in self.names]
        return [parsed(name) or ("", "") for name in self.names]

    @functools.cached_property
    def types(self) -> tuple[str, ...]:
        """The types of entities, in the order of the tags."""
        return tuple(dict.fromkeys(kind for prefix, kind in self._parts if prefix))

    @property
    def scheme(self) -> str:
        """The scheme that a model of these tags gives."""
        if self.plain:
            return "plain"
        ends = any(prefix in ("E", "S") for prefix, _ in self._parts)
        return "bioes" if ends else "bio"

    @functools.cached_property
    def prefix_C(self) -> np.ndarray:
        """The prefix of each tag, "" of O."""
        return np.array([prefix for prefix, _ in self._parts])

    @functools.cached_property
    def type_C(self) -> np.ndarray:
        """The number of each tag's type, int32; -1 for O."""
        numbers = {kind: k for k, kind in enumerate(self.types)}
        return np.array([numbers[k] if p else -1 for p, k in self._parts], np.int32)

    @property
    def outside(self) -> int:
        """The number of O; -1 where there is none."""
        return self.names.index(OUTSIDE) if OUTSIDE in self.names else -1

    @functools.cached_property
    def continues_CC(self) -> np.ndarray:
        """Whether an entity goes on from a tag (row) to the next word's (column).

        A row and a column more stand for the end of a sentence.
        """
        C = len(self.names)
        same = self.type_C[:, None] == self.type_C
        before = np.isin(self.prefix_C, ["B", "I"])[:, None]
        table = np.zeros((C + 1, C + 1), bool)
        table[:C, :C] = same & before & np.isin(self.prefix_C, ["I", "E"])
        return table

    def allowed_CC(self, scheme: str) -> np.ndarray:
        """Whether one tag may follow another in a scheme of `READ`; with the end of a
        sentence as in `continues_CC`."""
        prefix = np.append(self.prefix_C, "")
        kind = np.append(self.type_C, -1)
        goes_on = self.continues_CC
        if scheme == "iob1":
            near = np.isin(prefix, ["B", "I"])[:, None] & (kind[:, None] == kind)
            return (prefix != "B") | near
        table = ~np.isin(prefix, ["I", "E"]) | goes_on
        if scheme == "bioes":
            table &= ~np.isin(prefix, ["B", "I"])[:, None] | goes_on
        return table

    def entities(self, tags_W: np.ndarray) -> np.ndarray:
        """The entities in consecutive words, int64 [n, 3]: the words [first, last) and
        the type.

        Args:
          tags_W: int; -1 separates sentences.
        """
        tags_W = np.append(np.asarray(tags_W, np.int64), -1)
        previous = np.append(-1, tags_W[:-1])
        goes_on = self.continues_CC[previous, tags_W]
        kind = np.append(self.type_C, -1)[tags_W]
        breaks = np.flatnonzero(~goes_on)
        first = breaks[kind[breaks] >= 0]
        last = breaks[np.searchsorted(breaks, first, "right")] if len(first) else first
        return np.stack([first, last, kind[first]], axis=1)

    def written(self, tags_W: np.ndarray, target: "TagSet") -> np.ndarray:
        """The tags of one sentence in the scheme of another set, int32 [W].

        Args:
          tags_W: of this set; -1 for a word without a tag, which stays so.
          target: has this set's types, or is plain with its names.
        """
        tags_W = np.asarray(tags_W, np.int64)
        if self.plain:
            numbers = [*map(target.names.index, self.names), -1]
            return np.array(numbers, np.int32)[tags_W]
        out = np.where(tags_W < 0, -1, target.outside).astype(np.int32)
        scheme = target.scheme
        for first, last, kind in self.entities(tags_W):
            name = self.types[kind]
            inside = _prefixes(int(last - first), scheme)
            out[first:last] = [target.number(prefix, name) for prefix in inside]
        return out

    def number(self, prefix: str, kind: str) -> int:
        """The number of the tag with this prefix and type."""
        return self._parts.index((prefix, kind))


def _prefixes(words: int, scheme: str) -> str:
    """The prefixes of an entity of so many words."""
    if scheme == "bio":
        return "B" + "I" * (words - 1)
    return "S" if words == 1 else "B" + "I" * (words - 2) + "E"


def target_of(data: Sequence[str], scheme: str | None) -> TagSet:
    """The tags of a model that learns a corpus's, in `scheme` or the corpus's own.

    They keep the corpus's order where that begins with O, as datasets number them.

    Raises:
      ValueError: the corpus has tags without entities, and the scheme is of entities.
    """
    own = TagSet(tuple(data))
    if own.plain or scheme == "plain":
        if scheme not in (None, "plain"):
            odd = next(name for name in own.names if parsed(name) is None)
            raise ValueError(
                f"task.scheme={scheme!r} is of entities, and the corpus has the tag "
                f"{odd!r}; accepted: O, and a prefix with a type, as B-PER. Set "
                "task.scheme='plain' for tags without entities"
            )
        return own
    full = TagSet.of_types(own.types, scheme or own.scheme)
    ordered = own.names[:1] == (OUTSIDE,) and {*own.names} == {*full.names}
    return own if ordered else full


def misfit(
    tags: TagSet, tags_W: np.ndarray, read: str | None
) -> tuple[int, str] | None:
    """The first word whose tag breaks the scheme of the data, and the scheme.

    None: they keep to it, or to one of `READ` where `read` is None.

    Args:
      tags: of the data.
      tags_W: int, of all sentences in a row, -1 behind each.
      read: the scheme; "any" and "plain" are not checked.
    """
    if tags.plain or read in ("any", "plain"):
        return None
    ends = tags.scheme == "bioes"
    accepted = ("bioes",) if ends else ("bio", "iob1")
    found: list[tuple[int, str]] = []
    tags_W = np.append(-1, tags_W)
    for scheme in (read,) if read else accepted:
        bad = ~tags.allowed_CC(scheme)[tags_W[:-1], tags_W[1:]]
        if ends and scheme != "bioes":
            bad |= np.isin(np.append(tags.prefix_C, "")[tags_W[1:]], ["E", "S"])
        if not bad.any():
            return None
        found.append((int(bad.argmax()), scheme))
    return found[0]
