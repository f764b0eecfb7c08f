"""The characters that tokens stand for."""

import numpy as np


def correct(
    text: str, offsets: np.ndarray, sizes: np.ndarray, spaces: np.ndarray
) -> np.ndarray:
    """The library's offsets, corrected where tokens lie on each other's characters.

    A space that was put before the text, a token of its own, gets none: the library
    lays it on the character that follows. Bytes that stand for unknown characters get
    one character each: Unigram gives every byte all of them.

    Args:
      text: as it was written.
      offsets: characters [start, stop) of each token, int64 [n, 2].
      sizes: bytes of each token, int [n].
      spaces: whether a token is one space, bool [n].
    """
    offsets = offsets.copy()
    starts, stops = offsets.T
    put = np.flatnonzero(spaces[:-1] & (starts[1:] < stops[:-1]))
    stops[put] = starts[put]
    same = (offsets[1:] == offsets[:-1]).all(1) & (stops[1:] - starts[1:] > 1)
    pairs = np.flatnonzero(same)
    if not pairs.size:
        return offsets
    for run in np.split(pairs, np.flatnonzero(np.diff(pairs) > 1) + 1):
        tokens = slice(run[0], run[-1] + 2)
        first, last = offsets[run[0]]
        lengths = [len(c.encode()) for c in text[first:last]]
        ends = np.cumsum(sizes[tokens])
        if ends[-1] == sum(lengths):  # else the text was changed before it was cut
            characters = np.repeat(np.arange(first, last), lengths)
            starts[tokens] = characters[ends - sizes[tokens]]
            stops[tokens] = characters[ends - 1] + 1
    return offsets
