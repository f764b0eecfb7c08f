"""What a program multiplies: the types of its dots, read out of HLO text."""

import collections
import re

NAMED = re.compile(r"%?([\w.-]+) = (\w+)\[")
DOT = re.compile(r" = \w+\[\S* dot\(%?([\w.-]+), %?([\w.-]+)\)")
EIGHT = {"s8", "f8e4m3fn", "f8e5m2"}

Dots = collections.Counter[tuple[str, str, str]]


def eight_bit(hlo: str) -> Dots:
    """(direction, operand, operand) -> dots of two operands of 8 bits.

    The direction is "forward" or "backward" in a compiled program, which says from
    where an instruction comes, and "forward" throughout in a lowered one.
    """
    types = dict(NAMED.findall(hlo))
    found: Dots = collections.Counter()
    for line in hlo.splitlines():
        dot = DOT.search(line)
        if dot is None:
            continue
        lhs, rhs = types[dot[1]], types[dot[2]]
        if {lhs, rhs} <= EIGHT:
            found["backward" if "transpose(" in line else "forward", lhs, rhs] += 1
    return found
