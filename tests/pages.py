"""The pages that people read: their fences, commands, code and links."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST = ("README.md", "docs/rooms/experiments.md")  # their runs are used by the others
STARTS = r"python3? -m|bash (?:launch|\.ci)/|llmjax |pip install"


@dataclasses.dataclass(frozen=True)
class Fence:
    """A block of a page.

    Attributes:
      language: what follows the three ticks.
      line: of the page, where the text begins.
    """

    language: str
    text: str
    line: int


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of Markdown; `name` is its path in the repository."""

    name: str
    text: str

    @property
    def fences(self) -> list[Fence]:
        matches = re.finditer(r"^```(\S*)\n(.*?)^```$", self.text, re.DOTALL | re.M)
        return [
            Fence(m[1], m[2], self.text.count("\n", 0, m.start(2)) + 1) for m in matches
        ]

    @property
    def prose(self) -> str:
        """The text without its fences."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.M)

    @property
    def code(self) -> list[Fence]:
        return [fence for fence in self.fences if fence.language == "python"]

    @property
    def earlier(self) -> str | None:
        """The page that this one goes on from, as it says itself."""
        match = re.search(r"goes on\s+from\s+\[[^\]]*\]\(([^)]+)\)", self.text)
        return str(Path(self.name).parent / match[1]) if match else None

    def commands(self) -> Iterator["Command"]:
        """The lines of fences of a shell, joined where a line goes on."""
        for fence in self.fences:
            if fence.language not in ("bash", "console"):
                continue
            reason = ""
            for line in fence.text.replace("\\\n", " ").splitlines():
                line = " ".join(line.removeprefix("$ ").split())
                if line.startswith("#") or not line:
                    reason = line.lstrip("# ").rstrip(":")
                else:
                    yield Command(self.name, line, reason)

    def mentions(self) -> Iterator["Command"]:
        """The commands in the prose, between ticks."""
        for span in re.findall(rf"`((?:{STARTS})[^`]*)`", self.prose):
            line = re.sub(r"\[|\]|…", "", " ".join(span.split()))
            yield Command(self.name, line, "is mentioned")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a page; `reason` why it isn't run here, "" where it is."""

    page: str
    line: str
    reason: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)


def pages() -> list[Page]:
    """README, CONTRIBUTING and what is written of docs/, in the order they are run."""
    names = [*FIRST, "CONTRIBUTING.md"]
    written = sorted((ROOT / "docs").rglob("*.md"))
    names += [str(path.relative_to(ROOT)) for path in written]
    return [Page(name, (ROOT / name).read_text()) for name in dict.fromkeys(names)]
