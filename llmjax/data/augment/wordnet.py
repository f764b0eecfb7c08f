"""WordNet's own files, read in place: a word's synonyms.

The folder has `index.POS` and `data.POS` for noun, verb, adj and adv, in the format of
WordNet's manual page wndb(5); Debian's wordnet-base puts them into /usr/share/wordnet.
"""

import dataclasses
import functools
import mmap
import re
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
# of adjectives, where in a phrase they stand: "galore(ip)"
_MARKER = re.compile(r"\((?:a|p|ip)\)$")
REMEDY = (
    "give the folder of WordNet's index and data files; Debian's package wordnet-base "
    "puts them into /usr/share/wordnet"
)


@dataclasses.dataclass(frozen=True)
class WordNet:
    """The synonyms of English words; picklable, and little of it is in memory.

    Attributes:
      folder: of the files.
    """

    folder: str

    def __post_init__(self):
        """Raises FileNotFoundError where a file is missing."""
        names = [f"{kind}.{part}" for part in PARTS for kind in ("index", "data")]
        missing = [n for n in names if not (Path(self.folder) / n).is_file()]
        if missing:
            raise FileNotFoundError(
                f"data.augment.wordnet={self.folder!r} has no {missing[0]}; {REMEDY}"
            )

    def synonyms(self, word: str) -> tuple[str, ...]:
        """All lemmas of all senses that a word has as it is written, in their order.

        Without the word itself; compounds have spaces. (): it is not in WordNet.

        Raises:
          ValueError: a line that is none of WordNet's; it names file and place.
        """
        return _synonyms(self.folder, word.lower().replace(" ", "_"))


@functools.lru_cache(maxsize=100_000)
def _synonyms(folder: str, lemma: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for part in PARTS:
        for offset in _offsets(folder, part, lemma):
            found |= dict.fromkeys(_lemmas(folder, part, offset))
    own = lemma.replace("_", " ").lower()
    return tuple(name for name in found if name.lower() != own)


def _offsets(folder: str, part: str, lemma: str) -> list[int]:
    """The places of a lemma's senses, by a search in the sorted index."""
    if not lemma:
        return []
    file = _mapped(folder, f"index.{part}")
    line = _line(file, lemma.encode())
    if line is None:
        return []
    try:
        # lemma pos senses pointers [pointer…] senses tagged offset…
        fields = line.decode().split()
        senses, pointers = int(fields[2]), int(fields[3])
        offsets = [int(field) for field in fields[6 + pointers :]]
    except (IndexError, ValueError):
        raise _damaged(folder, f"index.{part}", f"the line of {lemma!r}") from None
    if len(offsets) != senses:
        raise _damaged(folder, f"index.{part}", f"the line of {lemma!r}")
    return offsets


def _line(file: mmap.mmap, lemma: bytes) -> bytes | None:
    """The line whose first field is `lemma`; the licence's begin with a space."""
    low, high = 0, len(file)  # of line beginnings
    while low < high:
        middle = (low + high) // 2
        start = file.rfind(b"\n", 0, middle) + 1
        end = file.find(b"\n", start)
        end = len(file) if end < 0 else end
        line = file[start:end]
        key = b"" if line.startswith(b" ") else line.split(b" ", 1)[0]
        if key == lemma:
            return line
        if key < lemma:
            low = end + 1
        else:
            high = start
    return None


def _lemmas(folder: str, part: str, offset: int) -> list[str]:
    """The words of the sense that lies at an offset of a data file."""
    file = _mapped(folder, f"data.{part}")
    line = file[offset : file.find(b"\n", offset)] if offset < len(file) else b""
    try:
        # offset file type words(hex) word id …
        fields = line.decode().split()
        count = int(fields[3], 16)
        words = fields[4 : 4 + 2 * count : 2]
        right = int(fields[0]) == offset and len(words) == count
    except (IndexError, ValueError):
        right = False
    if not right:
        raise _damaged(folder, f"data.{part}", f"byte {offset}")
    return [_MARKER.sub("", word).replace("_", " ") for word in words]


def _damaged(folder: str, name: str, place: str) -> ValueError:
    return ValueError(
        f"data.augment.wordnet={folder!r}: {place} of {name} is none of WordNet's; "
        f"{REMEDY}"
    )


@functools.cache
def _mapped(folder: str, name: str) -> mmap.mmap:
    with (Path(folder) / name).open("rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
