"""A block of attention and feed-forward, and a stack of scanned groups of blocks."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    Group,
    Latent,
    LayerSpec,
    LayoutConfig,
    Mixture,
    ModelConfig,
)
from llmjax.models.activations import NAMES, record, recording
from llmjax.models.attention.latent import LatentAttention
from llmjax.models.attention.multihead import Attention
from llmjax.models.cache import KeyValues, LayerCache
from llmjax.models.context import Context
from llmjax.models.experts.mixture import STATISTICS, MixtureOfExperts
from llmjax.models.layers import FeedForward, Norm
from llmjax.models.paged import AnyCache
from llmjax.models.positions.registry import scheme
from llmjax.models.remat import differentiated_once, named, remat, row_major
from llmjax.models.stages import through_stages
from llmjax.parallel import pipeline
from llmjax.parallel.sequence import gathered, scattered

GroupCache = tuple[LayerCache, ...]  # one for each layer of the pattern


class Block(nn.Module):
    """Attention and feed-forward, each normed, dropped out and added to its input."""

    cfg: ModelConfig
    layout: LayoutConfig
    spec: LayerSpec
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: Context,
        cached: tuple[LayerCache, jax.Array, Any] | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        cfg, spec = self.cfg, self.spec
        written: dict[str, KeyValues | None] = {}
        latent = isinstance(cfg.heads, Latent)

        def attend(name, cross):
            cls: Any = LatentAttention if latent and not cross else Attention
            flag = {"cross": True} if cross else {}
            attention = cls(cfg, self.layout, spec, **flag, name=name)

            def call(h_BTD):
                at = None
                if cached is not None:
                    cache, layer, slot = cached
                    at = (cache.cross if cross else cache.own, layer, slot)
                h_BTD, written[name] = attention(h_BTD, context, at)
                return h_BTD

            return call

        record(self, "hidden_states", x_BTD)
        mlp = self._mlp(context)
        attention = attend("attention", cross=False)
        if cfg.residual != "sequential":
            a_BTD = m_BTD = self._normed("attention", x_BTD)
            if cfg.residual == "parallel":
                m_BTD = self._normed("mlp", x_BTD)
            x_BTD = (
                x_BTD
                + self._branch("attention", attention, a_BTD)
                + self._branch("mlp", mlp, m_BTD)
            )
        else:
            x_BTD = self._residual("attention", attention, x_BTD)
            if self.cross:
                cross_attention = attend("cross_attention", cross=True)
                x_BTD = self._residual("cross_attention", cross_attention, x_BTD)
            record(self, "middle_states", x_BTD)
            x_BTD = self._residual("mlp", mlp, x_BTD)
        if cached is None:
            return x_BTD, None
        own: Any = written["attention"]
        return x_BTD, LayerCache(own, written.get("cross_attention"))

    def _mlp(self, context: Context) -> Any:
        mlp, d_ff = self.cfg.layer_mlp(self.spec)
        if isinstance(mlp, Mixture):
            mixture = MixtureOfExperts(self.cfg, self.layout, mlp, name="mlp")
            return lambda x_BTD: mixture(x_BTD, context.mask.q_segments_BT)
        return FeedForward(self.cfg, self.layout, mlp, d_ff, name="mlp")

    def _residual(self, name: str, f: Any, x_BTD: jax.Array) -> jax.Array:
        """x plus the branch; "post" norms the sum."""
        y_BTD = self._branch(name, f, self._normed(name, x_BTD))
        x_BTD = scattered(x_BTD + y_BTD, self.layout)
        if self.cfg.norm_position == "post":
            return Norm(self.cfg.norm, name=f"{name}_norm")(x_BTD)
        return x_BTD

    def _normed(self, name: str, x_BTD: jax.Array) -> jax.Array:
        """The branch's input: norm(x) pre and both, else x."""
        before = self.cfg.norm_position in ("pre", "both")
        if not before or (name == "attention" and not self.spec.attention_norm):
            return x_BTD
        with jax.named_scope(name):
            norm = Norm(self.cfg.norm, name=f"{name}_norm")
            return differentiated_once(norm(x_BTD))

    def _branch(self, name: str, f: Any, x_BTD: jax.Array) -> jax.Array:
        """norm(f(x)) output and both, else f(x); dropped out."""
        cfg = self.cfg
        with jax.named_scope(name):
            x_BTD = f(gathered(x_BTD, self.layout))
            if cfg.norm_position in ("both", "output"):
                x_BTD = Norm(cfg.norm, name=f"{name}_post_norm")(x_BTD)
            if cfg.dropout and self.has_rng("dropout"):
                x_BTD = nn.Dropout(cfg.dropout, deterministic=False)(x_BTD)
            record(
                self,
                f"{name.removeprefix('cross_')}_outputs",
                x_BTD,
                f"{name}_recorded",
            )
            return x_BTD


class Repeat(nn.Module):
    """One repeat of a group: its pattern, unrolled; the body of the scan."""

    cfg: ModelConfig
    layout: LayoutConfig
    pattern: tuple[LayerSpec, ...]
    cross: bool

    @nn.compact
    def __call__(self, carry, layer, context, slot):
        x_BTD, caches = carry
        written = []
        for i, spec in enumerate(self.pattern):
            x_BTD = named(row_major(scattered(x_BTD, self.layout)), "input")
            block = Block(self.cfg, self.layout, spec, self.cross, name=f"layer_{i}")
            cached = None if caches is None else (caches[i], layer, slot)
            y_BTD, cache = block(x_BTD, context, cached)
            x_BTD = self._dropped(x_BTD, y_BTD)
            written.append(cache)
        return (x_BTD, None if caches is None else tuple(written)), None

    def _dropped(self, x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
        """A layer's output, or in training for a share of the rows its input.

        LayerDrop (Fan et al. 2020, arXiv:1909.11556), drawn for each row; nothing is
        rescaled, and an evaluation has all layers.
        """
        if not self.cfg.layer_drop or not self.has_rng("dropout"):
            return y_BTD
        shape = (len(y_BTD), 1, 1)
        kept = jax.random.bernoulli(
            self.make_rng("dropout"), 1 - self.cfg.layer_drop, shape
        )
        return jnp.where(kept, y_BTD, x_BTD)


class SharedPositions(nn.Module):
    """Values that the position schemes of a stack's layers share, if any."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self) -> Any:
        return scheme(self.cfg).shared(self)


class Stack(nn.Module):
    """Groups of layers over embeddings, positions and a mask; ends normed.

    A group scans over its repeats, so its weights are stacked on a first axis `L`
    whatever `layout.unroll` is; one that shares its weights has them once.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    groups: tuple[Group, ...]
    cross: bool = False

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: AnyCache | None = None
    ) -> tuple[jax.Array, tuple[GroupCache | None, ...]]:
        slot = None if cache is None else cache.slot
        written = []
        shared = SharedPositions(self.cfg, name="relative")()
        context = dataclasses.replace(context, shared_positions=shared)
        for i in range(len(self.groups)):
            caches = None if cache is None else cache.layers[i]
            x_BTD, caches = self.group(i, f"group_{i}", x_BTD, caches, context, slot)
            written.append(caches)
        if self.cfg.norm_position != "post":
            x_BTD = Norm(self.cfg.norm, name="final_norm")(x_BTD)
        record(self, "hidden_states", x_BTD)
        return gathered(x_BTD, self.layout), tuple(written)

    def group(
        self,
        index: int,
        name: str,
        x_BTD: jax.Array,
        caches: GroupCache | None,
        context: Context,
        slot: Any,
    ) -> tuple[jax.Array, GroupCache | None]:
        """The states after one of the groups; a kind of stack may override it.

        On a mesh with a pipeline it goes through that, except to make weights, to
        decode and to record activations: then each device computes all layers.

        Args:
          index: of the group in `groups`.
          name: of its weights.
          x_BTD: the states before it.
          caches: of its layers, None without a cache.
          context: the same for all groups.
          slot: of the cache.
        """
        group = self.groups[index]
        stages = pipeline.mesh_stages()
        whole = caches is not None or self.is_initializing() or recording(self)
        if stages > 1 and not whole:
            plan = pipeline.circular_schedule(self.layout, stages)
            return self._pipelined(group, name, plan, x_BTD, context), None
        body = self._repeats(group, group.repeat)
        module = body(self.cfg, self.layout, group.pattern, self.cross, name=name)
        layers = jnp.arange(group.repeat)
        (x_BTD, caches), _ = module((x_BTD, caches), layers, context, slot)
        return x_BTD, caches

    def _repeats(self, group: Group, count: int) -> Any:
        """The class of modules that scan over so many repeats of a group."""
        looped = self.layout.unroll < count
        body = remat(Repeat, self.layout, looped=looped)
        stacked: Any = {"variable_axes": dict.fromkeys((STATISTICS, *NAMES), 0)}
        if group.shared:
            stacked["variable_broadcast"] = "params"
        else:
            stacked["variable_axes"]["params"] = 0
        return nn.scan(
            body,
            **stacked,
            split_rngs={"params": not group.shared, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=count,
            unroll=min(self.layout.unroll, count),
            metadata_params={nn.PARTITION_NAME: "L"},
        )

    def _pipelined(
        self,
        group: Group,
        name: str,
        plan: pipeline.CircularSchedule,
        x_BTD: jax.Array,
        context: Context,
    ) -> jax.Array:
        count = pipeline.layers_per_stage(group.repeat, plan)
        body = self._repeats(group, count)
        x_BTD, sums = through_stages(
            body(self.cfg, self.layout, group.pattern, self.cross, parent=None),
            self.get_variable("params", name),
            x_BTD,
            context,
            plan,
            layers=count,
            shared=group.shared,
            key=self.make_rng("dropout") if self.has_rng("dropout") else None,
        )
        if sums and self.is_mutable_collection(STATISTICS):
            self.put_variable(STATISTICS, name, sums)
        return x_BTD
