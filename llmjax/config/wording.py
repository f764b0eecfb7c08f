"""Numbers in words for a person."""

import textwrap

WIDTH = 88  # of a line
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def count(number: int, noun: str, plural: str = "") -> str:
    """A number of things: 1 file, 2,000 files; `plural` where noun + s is wrong."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def short(number: int | float) -> str:
    """A large number in three digits: 812, 19.3 k, 4.26 M, 70.6 B."""
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:,.0f}"


def number(value: int | float) -> str:
    """A number with the digits that matter: 2,000, 0.7312, 1.962."""
    whole = isinstance(value, int) or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def size(number: int | float) -> str:
    """Bytes in the unit that suits them: 812 bytes, 1.58 GiB."""
    power = 0
    while abs(number) >= 1024 and power < len(UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.3g} {UNITS[power]}" if power else f"{number:.0f} bytes"


def duration(seconds: int | float) -> str:
    """A time in one or two units: 0.8 s, 46 s, 8 min 46 s, 3 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(rows: dict[str, str]) -> str:
    """Names beside what they are, in two columns; what is empty is left out."""
    rows = {name: text for name, text in rows.items() if text}
    width = max(map(len, rows), default=0) + 2
    return "\n".join(
        textwrap.fill(
            text,
            max(WIDTH, width + 20),
            initial_indent=name.ljust(width),
            subsequent_indent=" " * width,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in rows.items()
    )
