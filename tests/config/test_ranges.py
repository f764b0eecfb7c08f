"""Every number of the config has a range, and nothing outside it is taken."""

import dataclasses
import importlib
import math
import pkgutil
import typing

import numpy as np
import pytest

import llmjax.config
from llmjax import config
from llmjax.config.checks import FLOAT_MAX, INT_MAX, Range, checked, range_of, ranges

# what a dataclass must be given, and numbers that the drawn one must fit to
REQUIRED = {
    "GivenWeights": {"values": (1.0,)},
    "Group": {"repeat": 1},
    "Checkpoint": {"path": "a"},
    "RankOf": {"pattern": "query", "rank": 1},
    "TokenizerFile": {"path": "a"},
    "MultiTask": {"parts": (config.TaskPart(),)},
}


def classes() -> list[type]:
    """Every dataclass of the config."""
    found = {}
    for module in pkgutil.iter_modules(llmjax.config.__path__):
        name = f"llmjax.config.{module.name}"
        for cls in vars(importlib.import_module(name)).values():
            if dataclasses.is_dataclass(cls) and cls.__module__ == name:
                found[cls.__qualname__] = cls
    del found["Range"]  # which says them
    return [found[name] for name in sorted(found)]


def is_number(hint) -> bool:
    """Whether a field's values are numbers, perhaps None or in a tuple."""
    return hint in (int, float) or any(map(is_number, typing.get_args(hint)))


def number_fields():
    for cls in classes():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if is_number(hints[field.name]):
                yield cls, field.name, typing.get_origin(hints[field.name]) is tuple


FIELDS = [pytest.param(*f, id=f"{f[0].__name__}.{f[1]}") for f in number_fields()]


def outside(range_: Range, whole: bool) -> list[float]:
    """Numbers on either side of a range, at its ends and far away."""
    rng = np.random.default_rng(0)
    values: list[float] = [10**20, -(10**20), 10**5000] if whole else [1e39, -1e39]
    values += [] if whole else [math.nan, math.inf, -math.inf]
    for end, sign, belongs in (
        (range_.low, -1, range_.ends[0] == "["),
        (range_.high, 1, range_.ends[1] == "]"),
    ):
        if not belongs:
            values.append(end)
        if abs(end) <= INT_MAX:
            steps = [1, *rng.integers(1, 10**6, 3).tolist()]
            values += [end + sign * (step if whole else step / 7) for step in steps]
    return [v if whole else float(v) for v in values if v != range_.also]


@pytest.mark.parametrize(("cls", "name", "several"), FIELDS)
def test_a_number_outside_its_range_is_refused(cls, name, several):
    range_ = range_of(typing.get_type_hints(cls, include_extras=True)[name])
    assert range_ is not None, f"{cls.__name__}.{name} declares no range"
    whole = "float" not in str(typing.get_type_hints(cls)[name])
    given = REQUIRED.get(cls.__name__, {})
    cls(**given)
    for value in outside(range_, whole):
        with pytest.raises(ValueError, match=rf"^{name} is .*; it must ") as error:
            cls(**given | {name: (value,) if several else value})
        assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_there_are_many():
    assert len(FIELDS) > 130


def test_every_default_is_inside():
    for cls in classes():
        value = cls(**REQUIRED.get(cls.__name__, {}))
        for name, range_, optional in ranges(cls):
            item = getattr(value, name)
            for number in item if isinstance(item, tuple) else (item,):
                assert (number is None and optional) or number in range_


@pytest.mark.parametrize(
    ("range_", "value", "says"),
    [
        (Range(0, ends="(]"), -1.0, "be positive"),
        (Range(0, INT_MAX), -1, "not be negative"),
        (Range(1, INT_MAX), 0, "be at least 1"),
        (Range(1, ends="(]"), 1.0, "be above 1"),
        (Range(0, 1, "[)"), 1, "be in [0, 1)"),
        (Range(1, INT_MAX, also=-1), 0, "be at least 1, or -1"),
        (Range(0, INT_MAX), 10**20, f"not be negative and at most {INT_MAX}"),
        (Range(), 1e39, f"be finite and at most {FLOAT_MAX}"),
        (Range(), math.nan, "be finite"),
    ],
)
def test_an_error_says_what_is_accepted(range_, value, says):
    assert value not in range_
    assert range_.accepted(value) == says


def test_what_is_no_number_is_named():
    @checked
    class Some:
        a: typing.Annotated[int, Range(0, 5)] = 0
        b: tuple[typing.Annotated[float, Range(0, 5)], ...] = ()
        c: typing.Annotated[int, Range(0, 5)] | None = None

    Some(np.int64(5), (0, 1.5, np.float32(2)), None)
    for fields in {"a": "4"}, {"a": None}, {"b": (1.0, None)}, {"c": [[1]]}:
        (name,) = fields
        with pytest.raises(ValueError, match=rf"^{name} is .*accepted: a number"):
            Some(**fields)


def test_a_base_classes_checks_hold_for_its_children():
    @checked
    class Parent:
        low: typing.Annotated[int, Range(0, 5)] = 0

        def __post_init__(self):
            if self.low == 3:
                raise ValueError("three")

    @checked
    class Child(Parent):
        high: typing.Annotated[int, Range(6, 9)] = 6

    for fields, says in [({"low": 6}, "low"), ({"high": 5}, "high"), ({"low": 3}, "t")]:
        with pytest.raises(ValueError, match=f"^{says}"):
            Child(**fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Child().low = 2


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("optimizer.clip_norm", 0.0, "config optimizer: clip_norm is 0.0; it must be"),
        ("optimizer.ema", 1, r"config optimizer: ema is 1.0; it must be in \[0, 1\)"),
        ("optimizer.ema", math.nan, "ema is nan; it must be in"),
        ("optimizer.learning_rate", -1, "learning_rate is -1.0; it must be positive"),
        ("optimizer.weight_decay", 10**400, "'optimizer.weight_decay' is an integer"),
        ("optimizer.algorithm.b1", 1.5, r"config optimizer.algorithm: b1 is 1.5"),
        ("optimizer.schedule.warmup_steps", -5, "warmup_steps is -5; it must not be"),
        ("train.keep_best", -1, "keep_best is -1"),
        ("train.steps", 10**20, f"steps is {10**20}; it must be at least 1 and at m"),
        ("model.init_std", -1.0, "init_std is -1.0"),
    ],
)
def test_parsing_names_the_key(path, value, says):
    draft = config.default().to_dict()
    *parents, key = path.split(".")
    node = draft
    for parent in parents:
        node = node[parent]
    node[key] = value
    with pytest.raises(ValueError, match=says):
        config.parse(draft)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: config.ModelConfig(
                positions=config.Rotary(scaling=config.LongRope((1.0,), (1.0,)))
            ),
            "scaling.short has 1 divisors .* head size is 64; give 32",
        ),
        (
            lambda: config.ModelConfig(
                head_dim=2, positions=config.Rotary(scaling=config.DynamicScaling(2.0))
            ),
            "head size is 2; dynamic scaling needs at least 4",
        ),
        (lambda: config.SigmoidRouter(2, 3), "top_groups=3 exceeds groups=2"),
        (lambda: config.Llama3Scaling(low_frequency=4.0), "low_frequency=4.0 is not b"),
        (lambda: config.RelativeBias(8, 4), "max_distance=4 is not above half of"),
        (lambda: config.Disentangled(8, 5), "max_distance=5 is not above half of"),
    ],
)
def test_numbers_that_do_not_fit_each_other(make, says):
    with pytest.raises(ValueError, match=says):
        make()
