"""What `--help` of a main shows: its docstring, its flags, and those of every run."""

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator

from absl import flags

PROCESSES = "llmjax.parallel.processes.membership"
MODULE = "python -m experiments."
KEYS = (
    "--config.KEY=VALUE sets a key of the config, as --config.train.steps=100; "
    "llmjax/config/ has all of them."
)
SEVERAL = (
    "launch/local.sh starts a run of several processes; their own flags are {}. "
    "--helpfull lists those of libraries, too."
)
# what absl adds to the help of some kinds of flags
_REPEATED = re.compile(r";?\s+repeat this option to specify a list of values")
_CHOICES = re.compile(r"^<[^>]*>: ")


def text(required: Iterable[str]) -> str:
    """The help of the program that runs.

    Args:
      required: names of the flags that must be set.
    """
    main = vars(sys.modules["__main__"])
    doc = (main.get("__doc__") or "").strip()
    config = "config" in required or "--config" in doc
    shared = ["config", "workdir"] if config else ["workdir"]
    names = list(dict.fromkeys([*required, *shared, *_own()]))
    several = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[PROCESSES]]
    return "\n".join(
        [
            doc.replace(MODULE, main.get("COMMAND", MODULE)),
            "",
            "Flags:",
            *(line for n in names for line in _lines(n, n in required)),
            "",
            *([textwrap.fill(KEYS, 88)] if config else []),
            textwrap.fill(SEVERAL.format(", ".join(f"--{n}" for n in several)), 88),
        ]
    )


def _own() -> Iterator[str]:
    """The flags of the main, and of mains that it takes its own from."""
    for module, found in flags.FLAGS.flags_by_module_dict().items():
        ours = module.startswith("experiments.") and module != "experiments.cli"
        if module == sys.argv[0] or ours:
            yield from (flag.name for flag in found)


def _lines(name: str, required: bool) -> Iterator[str]:
    """A flag: how it is given, what it says, its default."""
    flag = flags.FLAGS[name]
    parser = flag.parser
    if flag.boolean:
        form = f"--[no]{name}"
    elif isinstance(parser, flags.EnumParser):
        form = f"--{name}={'|'.join(parser.enum_values)}"
    elif isinstance(parser, flags.IntegerParser | flags.FloatParser):
        form = f"--{name}=NUMBER"
    elif isinstance(parser, flags.ListParser):
        form = f"--{name}=ONE,TWO"
    else:
        form = f"--{name}=..."
    notes = ["required"] if required else []
    if flag.default not in (None, False, ""):
        notes.append(f"default: {flag.default_as_str}")
    note = f" ({'; '.join(notes)})" if notes else ""
    yield f"  {form}"
    words = _CHOICES.sub("", _REPEATED.sub("", flag.help))
    yield textwrap.fill(
        f"{words}{note}", 88, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
