"""Byte-pair merges of a vocabulary that only scores its tokens."""

from collections.abc import Collection, Iterator

LONGEST = 512  # characters; the longest token of any vocabulary that ships has 256


class Cuts:
    """The ways to cut a token in two tokens of a vocabulary, each of them a merge.

    Only lengths that the vocabulary has are tried, and longer tokens are refused: of a
    token of 200,000 characters every cut would copy them all.

    Args:
      tokens: the vocabulary that the parts are to be in.
      where: its file, for errors.
    """

    def __init__(self, tokens: Collection[str], where: str):
        self.tokens = tokens
        self.where = where
        self.lengths = {len(token) for token in tokens}
        self.sorted = sorted(self.lengths)

    def of(self, token: str) -> Iterator[tuple[str, str]]:
        """Pairs of tokens that make up this one, the shortest beginning first.

        Raises:
          ValueError: the token is too long.
        """
        size = len(token)
        if size > LONGEST:
            raise ValueError(
                f"{self.where} has a token of {size} characters, {token[:20]!r}...; "
                f"accepted: at most {LONGEST}. Is the file damaged?"
            )
        for length in self.sorted:
            if length >= size:
                return
            if size - length not in self.lengths:
                continue
            pair = token[:length], token[length:]
            if pair[0] in self.tokens and pair[1] in self.tokens:
                yield pair
