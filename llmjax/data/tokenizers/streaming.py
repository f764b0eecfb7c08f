"""Text of ids that come one after the other, and the stop strings in it.

A letter may be spread over several tokens, and a stop string over several texts: what
may still become one waits. All pieces together are what `Tokenizer.decode` gives.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """Decodes ids one after the other; `Tokenizer.stream` makes it."""

    def __init__(self, shown: Sequence[bytes], drops_space: bool):
        """
        Args:
          shown: bytes of each id.
          drops_space: whether a space before the first word is left out.
        """
        self._shown, self._drops_space = shown, drops_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, id: int) -> str:
        """The characters that are complete with this id."""
        spelled = self._shown[id] if id < len(self._shown) else b""
        if spelled and self._drops_space:
            spelled, self._drops_space = spelled.removeprefix(b" "), False
        return self._decoder.decode(spelled)

    def end(self) -> str:
        """What is left: U+FFFD for a letter that was never completed."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Passes a text on up to the first of some strings.

    Attributes:
      stopped: whether one came.
    """

    def __init__(self, stops: Sequence[str]):
        """
        Args:
          stops: none is empty.
        """
        self._stops, self._held, self.stopped = tuple(stops), "", False

    def add(self, text: str) -> str:
        """What of the text is sure to come before a stop string."""
        self._held += text
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.stopped, keep = True, min(places)
            text, self._held = self._held[:keep], ""
            return text
        keep = len(self._held) - max(map(self._begun, self._stops), default=0)
        text, self._held = self._held[:keep], self._held[keep:]
        return text

    def end(self) -> str:
        """What waited for a stop string that didn't come."""
        text, self._held = self._held, ""
        return text

    def _begun(self, stop: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = min(len(stop) - 1, len(self._held))
        ends = (n for n in range(longest, 0, -1) if self._held.endswith(stop[:n]))
        return next(ends, 0)
