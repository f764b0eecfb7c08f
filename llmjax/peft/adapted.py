"""A model with adapters, which part of it is trained, and the model without them."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.config import (
    C3A,
    HRA,
    IA3,
    OFT,
    AdaLoRA,
    Adapters,
    DeLoRA,
    FullTuning,
    HiRA,
    LoHa,
    LoKr,
    LoRA,
    MiSS,
    PartialTuning,
    Peft,
    PiSSA,
    RoAd,
    SHiRA,
    VeRA,
)
from llmjax.models.layers import Projection, Table
from llmjax.peft.adalora import Allocated
from llmjax.peft.c3a import Circulant
from llmjax.peft.delora import Decoupled
from llmjax.peft.hira import Hadamard
from llmjax.peft.hra import Reflected
from llmjax.peft.ia3 import Rescaled
from llmjax.peft.loha import HadamardPair
from llmjax.peft.lokr import Kronecker
from llmjax.peft.lora import LowRank
from llmjax.peft.method import Method, matches, path
from llmjax.peft.miss import Shards
from llmjax.peft.oft import Rotated
from llmjax.peft.pissa import Principal
from llmjax.peft.road import Turned
from llmjax.peft.shira import Sparse
from llmjax.peft.vera import RandomFactors

METHODS: dict[type, Callable[[Any], Method]] = {
    LoRA: LowRank,
    PiSSA: Principal,
    AdaLoRA: Allocated,
    VeRA: RandomFactors,
    MiSS: Shards,
    OFT: Rotated,
    HRA: Reflected,
    HiRA: Hadamard,
    SHiRA: Sparse,
    LoHa: HadamardPair,
    LoKr: Kronecker,
    DeLoRA: Decoupled,
    RoAd: Turned,
    C3A: Circulant,
    IA3: Rescaled,
}
CLASSES = "C"  # axis of a head's classes
BODY = "transformer"  # all that is not a head


def method(peft: Adapters) -> Method:
    """The method of a config of adapters."""
    return METHODS[type(peft)](peft)


def adapted(model: nn.Module, peft: Peft) -> nn.Module:
    """The model with adapters in every matrix that they target, under its own names.

    It is of a subclass of the model's class, whose `init` and `apply` intercept
    `Projection`; their weights lie beside the kernels, through scans and pipelines.
    Without adapters it is the model itself.
    """
    if isinstance(peft, FullTuning | PartialTuning):
        return model
    fields = {
        f.name: getattr(model, f.name)
        for f in dataclasses.fields(model)
        if f.init and f.name not in ("parent", "name")
    }
    cls: Any = type(model)
    return _subclass(cls)(**fields, peft=peft)


@functools.cache
def _subclass(cls: Any) -> Any:
    """`cls` with adapters: a field `peft` more."""

    class Adapted(cls):
        peft: Any = dataclasses.field(default=None, kw_only=True)

        @nn.nowrap
        def init(self, *args: Any, **kwargs: Any) -> Any:
            with nn.intercept_methods(_interceptor(method(self.peft))):
                return super().init(*args, **kwargs)

        @nn.nowrap
        def apply(self, *args: Any, **kwargs: Any) -> Any:
            with nn.intercept_methods(_interceptor(method(self.peft))):
                return super().apply(*args, **kwargs)

    Adapted.__name__ = Adapted.__qualname__ = f"Adapted{cls.__name__}"
    Adapted.__doc__ = cls.__doc__
    return Adapted


def _interceptor(adapters: Method) -> Callable[..., Any]:
    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        of_matrix = isinstance(module, Projection)
        if not of_matrix or context.method_name != "__call__":
            return call(*args, **kwargs)
        if not adapters.selects(path(module)):
            return call(*args, **kwargs)
        if isinstance(module, Table):
            raise ValueError(
                f"the adapters target {path(module)}, a table of vectors to look up; "
                "leave it out, or train it whole by peft.train"
            )
        x = args[0] if args else kwargs.get("x")
        return adapters.apply(module, call, x)

    return intercept


def matrices(model: nn.Module, batch: Any) -> dict[str, Projection]:
    """The projections of a model without adapters by path, tables left out."""
    found: dict[str, Projection] = {}

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, Projection) and not isinstance(module, Table):
            found[path(module)] = module
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b), batch)
    return found


def check(peft: Peft, names: Collection[str]) -> None:
    """Raises ValueError for a target or a pattern that matches nothing.

    Args:
      peft: of the run.
      names: of all weights of the model, adapters among them.
    """
    if isinstance(peft, FullTuning):
        return
    if isinstance(peft, Adapters):
        adapters = method(peft)
        there = sorted(
            name.removesuffix("/kernel") for name in names if name.endswith("/kernel")
        )
        for target in adapters.targets():
            if not any(matches(name, (target,)) for name in there):
                raise ValueError(
                    f"peft targets {target!r}, which is no matrix of this model; "
                    f"{_close(target, there)}"
                )
    weights = [name for name in names if not of_adapters(peft, name)]
    for pattern in peft.train:
        if not any(matches(name, (pattern,)) for name in weights):
            raise ValueError(
                f"peft.train has {pattern!r}, which matches no weight; "
                f"{_close(pattern, weights)}"
            )


def _close(target: str, names: Collection[str]) -> str:
    """Words that name what a user may have meant."""
    ends = {name.rpartition("/")[2]: name for name in names}
    close = difflib.get_close_matches(target, [*names, *ends], n=4, cutoff=0.4)
    shown = close or sorted(ends)[:12]
    return f"{'close ones' if close else 'it has'}: {', '.join(dict.fromkeys(shown))}"


def of_adapters(peft: Peft, name: str) -> bool:
    """Whether a weight is an adapter's, by its name."""
    if not isinstance(peft, Adapters):
        return False
    scope = name.split("/")[-2:-1]
    return any(part.endswith(f"_{method(peft).name}") for part in scope)


def trained(peft: Peft, axes: Mapping[str, tuple[str | None, ...]]) -> set[str]:
    """The names of the weights that change.

    They are adapters, what `peft.train` names, and a head of classes: all outside of
    the Transformer where a weight has an axis of classes, less a pooler, which is
    pretrained.

    Args:
      peft: of the run.
      axes: name -> logical axes, of all weights of the model.
    """
    if isinstance(peft, FullTuning):
        return set(axes)
    classes = any(CLASSES in leaf for leaf in axes.values())

    fixed = method(peft).fixed if isinstance(peft, Adapters) else ()

    def changes(name: str) -> bool:
        if of_adapters(peft, name):
            return name.rpartition("/")[2] not in fixed
        of_head = classes and name.split("/")[0] not in (BODY, "pooler")
        return of_head or matches(name, peft.train)

    return {name for name in axes if changes(name)}


def frozen(peft: Peft, axes: Mapping[str, tuple[str | None, ...]]) -> set[str]:
    """The names of the weights that stay as they are; arguments as of `trained`.

    Raises:
      ValueError: a target or pattern that matches nothing, or nothing is trained.
    """
    check(peft, axes.keys())
    changing = trained(peft, axes)
    if axes and not changing:
        raise ValueError(
            f"peft.kind={peft.kind!r} trains nothing: the model has no head of classes "
            "and peft.train is empty; name weights there, as '*bias'"
        )
    return set(axes) - changing


def begins_at_base(peft: Adapters) -> bool:
    """Whether the adapters that a run starts with are computed of its base."""
    return getattr(method(peft), "begins_at_base", False)


def begun(peft: Adapters, model: nn.Module, batch: Any, params: Any) -> Any:
    """The weights with adapters that are computed of their base's matrices.

    Arguments as of `merged`. Meant to be jitted.
    """
    rule: Any = method(peft)
    flat = dict(flatten_dict(params, sep="/"))
    for where, module in matrices(model, batch).items():
        kernel = f"{where}/kernel" if module.parameter == "kernel" else where
        if not any(name.startswith(f"{kernel}_{rule.name}/") for name in flat):
            continue
        start: Any = functools.partial(rule.started, module)
        for _ in range(flat[kernel].ndim - len(module.shape)):  # stacked layers
            start = jax.vmap(start)
        for name, value in start(flat[kernel]).items():
            leaf = f"{kernel}_{rule.name}/{name}"
            flat[leaf] = value.astype(flat[leaf].dtype)
    return unflatten_dict(flat, sep="/")


def merged(peft: Peft, model: nn.Module, batch: Any, params: Any) -> Any:
    """The weights of the model without adapters: theirs are in its matrices.

    Args:
      peft: that `params` were trained by.
      model: the one without adapters.
      batch: that it reads; shapes will do.
      params: of the model with adapters.
    """
    if not isinstance(peft, Adapters):
        return params
    adapters, flat = method(peft), flatten_dict(params, sep="/")
    own = {name: leaf for name, leaf in flat.items() if not of_adapters(peft, name)}
    for where, module in matrices(model, batch).items():
        kernel = f"{where}/kernel" if module.parameter == "kernel" else where
        prefix = f"{kernel}_{adapters.name}/"
        weights = {
            name.removeprefix(prefix): leaf
            for name, leaf in flat.items()
            if name.startswith(prefix)
        }
        if not weights:
            continue
        leaves, bias = {"kernel": flat[kernel], "weights": weights}, f"{where}/bias"
        if module.bias:
            leaves["bias"] = flat[bias]
        merge: Any = functools.partial(_merge, adapters, module)
        for _ in range(flat[kernel].ndim - len(module.shape)):  # stacked layers
            merge = jax.vmap(merge)
        own[kernel], new_bias = jax.jit(merge)(jax.tree.map(jnp.asarray, leaves))
        if new_bias is not None:
            own[bias] = new_bias
    return unflatten_dict(own, sep="/")


def _merge(adapters: Method, module: Projection, leaves: Any) -> tuple[Any, Any]:
    kernel, bias = leaves["kernel"], leaves.get("bias")
    return adapters.merged(module, kernel, bias, leaves["weights"])
