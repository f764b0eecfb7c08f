"""SentencePiece's map of characters, checked: the library that reads it indexes it
without a look at its bounds, and panics amid a text."""

import numpy as np

_CHUNK = 4096  # nodes whose 255 edges are looked at together


def check(charsmap: bytes) -> None:
    """Walks the whole map: a double array (Aoe 1989) in units of 32 bits, and behind it
    the texts that its leaves point into, each of which ends in a null byte.

    Raises:
      ValueError: an edge that leads out of the array, a leaf that points beyond the
        texts or into a character.
    """
    size = int.from_bytes(charsmap[:4], "little") // 4
    if not 0 < size <= (len(charsmap) - 4) // 4:
        raise ValueError(f"it has {len(charsmap)} bytes and says {size} units")
    units = np.frombuffer(charsmap, "<u4", size, 4).astype(np.int64)
    texts = np.frombuffer(charsmap, np.uint8, offset=4 + 4 * size)
    inside = np.append((texts & 0xC0) == 0x80, False)  # amid a character in UTF-8
    labels = np.arange(1, 256)
    reached = np.zeros(size, bool)
    nodes = _offset(units[:1])
    while nodes.size:
        if (nodes | 255).max() >= size:
            raise ValueError("an edge leads out of its array")
        nodes = np.unique(nodes[~reached[nodes]])
        reached[nodes] = True
        parts = [np.zeros(0, np.int64)]
        for start in range(0, len(nodes), _CHUNK):
            places = nodes[start : start + _CHUNK, None] ^ labels
            matches = (units[places] & 0x800000FF) == labels
            edges = units[places[matches]]
            children = places[matches] ^ _offset(edges)
            if children.size and children.max() >= size:
                raise ValueError("an edge leads out of its array")
            leaves = units[children[(edges >> 8 & 1) == 1]] & 0x7FFFFFFF
            if leaves.size and (leaves.max() > len(texts) or inside[leaves].any()):
                raise ValueError("a leaf points beyond its texts, or into a character")
            parts.append(children)
        nodes = np.concatenate(parts)


def _offset(units: np.ndarray) -> np.ndarray:
    """How far from a unit's place its children lie, to be combined by xor."""
    return (units >> 10) << ((units & 512) >> 6)
