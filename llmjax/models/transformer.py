"""The one Transformer: a block, a stack of scanned groups, and the whole."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    Disentangled,
    Group,
    Latent,
    LayerSpec,
    LayoutConfig,
    Mixture,
    ModelConfig,
    RelativeBias,
    TransformerXL,
)
from llmjax.models.attention.latent import LatentAttention
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.multihead import Attention
from llmjax.models.cache import Cache, Layers, Place
from llmjax.models.context import Context
from llmjax.models.embedder import Embedder
from llmjax.models.experts.mixture import STATISTICS, MixtureOfExperts
from llmjax.models.layers import FeedForward, Norm, table
from llmjax.models.remat import named, remat, row_major, settled
from llmjax.models.stages import through_stages
from llmjax.parallel import pipeline
from llmjax.parallel.sequence import gathered, scattered

Batch = Mapping[str, Any]


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
        cached: tuple[Place, jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, Place | None]:
        cfg, spec = self.cfg, self.spec
        written: dict[str, Layers | None] = {}
        latent = isinstance(cfg.heads, Latent)

        def attend(name, cross):
            cls: Any = LatentAttention if latent and not cross else Attention
            flag = {"cross": True} if cross else {}
            attention = cls(cfg, self.layout, spec, **flag, name=name)

            def call(h_BTD):
                at = None
                if cached is not None:
                    place, layer, slot = cached
                    at = (place.cross if cross else place.own, layer, slot)
                h_BTD, written[name] = attention(h_BTD, context, at)
                return h_BTD

            return call

        mlp = self._mlp(context)
        attention = attend("attention", cross=False)
        if cfg.residual == "parallel":
            x_BTD = (
                x_BTD
                + self._branch("attention", attention, x_BTD)
                + self._branch("mlp", mlp, x_BTD)
            )
        else:
            x_BTD = self._residual("attention", attention, x_BTD)
            if self.cross:
                cross_attention = attend("cross_attention", cross=True)
                x_BTD = self._residual("cross_attention", cross_attention, x_BTD)
            x_BTD = self._residual("mlp", mlp, x_BTD)
        if cached is None:
            return x_BTD, None
        own: Any = written["attention"]
        return x_BTD, Place(own, written.get("cross_attention"))

    def _mlp(self, context: Context) -> Any:
        mlp, d_ff = self.cfg.layer_mlp(self.spec)
        if isinstance(mlp, Mixture):
            mixture = MixtureOfExperts(self.cfg, self.layout, mlp, name="mlp")
            return lambda x_BTD: mixture(x_BTD, context.mask.q_segments_BT)
        return FeedForward(self.cfg, self.layout, mlp, d_ff, name="mlp")

    def _residual(self, name: str, f: Any, x_BTD: jax.Array) -> jax.Array:
        """x plus the branch; "post" norms the sum."""
        x_BTD = scattered(x_BTD + self._branch(name, f, x_BTD), self.layout)
        if self.cfg.norm_position == "post":
            return Norm(self.cfg.norm, name=f"{name}_norm")(x_BTD)
        return x_BTD

    def _branch(self, name: str, f: Any, x_BTD: jax.Array) -> jax.Array:
        """f(norm(x)) pre, norm(f(x)) output, norm(f(norm(x))) both, f(x) post."""
        cfg = self.cfg
        before = cfg.norm_position in ("pre", "both")
        with jax.named_scope(name):
            if before and (name != "attention" or self.spec.attention_norm):
                x_BTD = settled(Norm(cfg.norm, name=f"{name}_norm")(x_BTD))
            x_BTD = f(gathered(x_BTD, self.layout))
            if cfg.norm_position in ("both", "output"):
                x_BTD = Norm(cfg.norm, name=f"{name}_post_norm")(x_BTD)
            if cfg.dropout and self.has_rng("dropout"):
                x_BTD = nn.Dropout(cfg.dropout, deterministic=False)(x_BTD)
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
            x_BTD, place = block(x_BTD, context, cached)
            written.append(place)
        return (x_BTD, None if caches is None else tuple(written)), None


class Relative(nn.Module):
    """What relative positions share between the layers of a stack, if anything."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self) -> jax.Array | None:
        cfg, positions = self.cfg, self.cfg.positions
        if isinstance(positions, RelativeBias):
            shape = (positions.buckets, cfg.num_heads)
            axes, std = (None, "N"), cfg.init_std
            return table(self, "bias_table", "BTSX,XN->BTSN", shape, axes, std)
        if isinstance(positions, Disentangled):
            shape = (2 * positions.span, cfg.d_model)
            axes, std = (None, "D"), cfg.init_std
            table_XD = table(self, "table", "BTSX,XD->BTSD", shape, axes, std)
            return Norm(cfg.norm, name="norm")(table_XD)
        return None


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
        self, x_BTD: jax.Array, context: Context, cache: Cache | None = None
    ) -> tuple[jax.Array, tuple[tuple[Place, ...] | None, ...]]:
        slot = None if cache is None else cache.slot
        written = []
        shared = Relative(self.cfg, name="relative")()
        context = dataclasses.replace(context, relative=shared)
        for i, group in enumerate(self.groups):
            caches = None if cache is None else cache.layers[i]
            layers = jnp.arange(group.repeat)
            (x_BTD, caches), _ = self._scan(group, f"group_{i}")(
                (x_BTD, caches), layers, context, slot
            )
            written.append(caches)
        if self.cfg.norm_position != "post":
            x_BTD = Norm(self.cfg.norm, name="final_norm")(x_BTD)
        return gathered(x_BTD, self.layout), tuple(written)

    def _scan(self, group: Group, name: str) -> Any:
        """A group as a function of `Repeat`'s arguments, over all layers' indices.

        On a mesh with a pipeline it goes through that, except to make weights and to
        decode: then each device computes all layers.
        """

        def run(carry, layers, context, slot):
            x_BTD, caches = carry
            stages = pipeline.mesh_stages()
            if stages > 1 and caches is None and not self.is_initializing():
                plan = pipeline.circular_schedule(self.layout, stages)
                x_BTD = self._pipelined(group, name, plan, x_BTD, context)
                return (x_BTD, None), None
            body = self._repeats(group, group.repeat)
            module = body(self.cfg, self.layout, group.pattern, self.cross, name=name)
            return module(carry, layers, context, slot)

        return run

    def _repeats(self, group: Group, count: int) -> Any:
        """The class of modules that scan over so many repeats of a group."""
        looped = self.layout.unroll < count
        body = remat(Repeat, self.layout, looped=looped)
        stacked: Any = {"variable_axes": {"params": 0, STATISTICS: 0}}
        if group.shared:
            stacked = {
                "variable_broadcast": "params",
                "variable_axes": {STATISTICS: 0},
            }
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


class Transformer(nn.Module):
    """Decoder, encoder, or encoder-decoder: tokens in, last hidden states out.

    A batch holds `tokens` [B, T], and where rows are packed or padded `segment_ids`
    and `positions` [B, T]; some models read `token_types` [B, T]. `prefix` [B, T],
    true for tokens that all of their segment may see, makes a prefix language model.
    `hidden_mask` [B, T, T], true where a token may not see another, makes a model with
    a query stream (XLNet) give that stream's states. An encoder-decoder reads its
    encoder's from the same names after `encoder_`. Dropout is on when an rng named
    "dropout" is given.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg, layout = self.cfg, self.layout
        self.embedder = Embedder(cfg, layout)
        two = cfg.architecture == "encoder_decoder"
        if two:
            self.encoder_embedder = Embedder(cfg, layout, own_table=False)
            self.encoder = Stack(cfg, layout, cfg.encoder_layers)
        self.stack = Stack(cfg, layout, cfg.layers, cross=two)
        if isinstance(cfg.positions, TransformerXL):
            init = nn.initializers.normal(cfg.init_std)
            boxed = nn.with_logical_partitioning(init, ("D_vector",))
            self.query_stream: Any = self.param("query_stream", boxed, (cfg.d_model,))

    def __call__(
        self,
        batch: Batch,
        cache: Cache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Hidden states [B, T, D], and the cache when one is given.

        Args:
          batch: as above; with a cache, `tokens` are the T new ones.
          cache: of the tokens before.
          encoded_BSD: what `encode(batch)` gave, to not compute it again; not needed
            once it is in the cache.
        """
        tokens_BT = batch["tokens"]
        T = tokens_BT.shape[1]
        segments_BT, given_BT = batch.get("segment_ids"), batch.get("positions")
        positions_BT = given_BT
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(T), tokens_BT.shape)
            if cache is not None:
                positions_BT = positions_BT + cache.slot
        mask = Mask(
            given_BT,
            given_BT,
            segments_BT,
            segments_BT,
            causal=self.cfg.architecture != "encoder",
            k_prefix_BS=batch.get("prefix"),
        )
        if cache is not None:
            q_segments = (
                jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT
            )
            cache = cache.extend(positions_BT, q_segments)
            mask = mask.with_(
                q_positions_BT=positions_BT,
                k_positions_BS=cache.positions_BS,
                q_segments_BT=q_segments,
                k_segments_BS=cache.segments_BS,
            )
        types_BT = batch.get("token_types")
        context = Context(mask, positions_BT, token_types_BT=types_BT)
        if self.cfg.architecture == "encoder_decoder":
            if encoded_BSD is None and "encoder_tokens" in batch:
                encoded_BSD = self.encode(batch)
            k_segments = batch.get("encoder_segment_ids")
            context = dataclasses.replace(
                context,
                encoded_BSD=encoded_BSD,
                cross_mask=Mask(q_segments_BT=segments_BT, k_segments_BS=k_segments),
            )
        x_BTD = self.embedder(self.embedder.lookup(tokens_BT), positions_BT, types_BT)
        if "hidden_mask" in batch:
            x_BTD, context = self._two_streams(x_BTD, context, batch["hidden_mask"])
        x_BTD, written = self.stack(x_BTD, context, cache)
        x_BTD = x_BTD[:, -T:]  # of two streams the queries'
        return x_BTD, None if cache is None else cache.advance(written, T)

    def _two_streams(
        self, x_BTD: jax.Array, context: Context, hidden_BTS: jax.Array
    ) -> tuple[jax.Array, Context]:
        """Content and query stream (Yang et al. 2019, 2.3), one after the other.

        The content stream sees itself; the query stream starts from one trained vector
        and sees what may be seen.
        """
        if not isinstance(self.cfg.positions, TransformerXL):
            raise ValueError(
                "the batch has `hidden_mask` and model.positions.kind is "
                f"{self.cfg.positions.kind!r}; only 'transformer_xl' has two streams"
            )
        T = x_BTD.shape[1]
        start = jnp.broadcast_to(self.query_stream.astype(x_BTD.dtype), x_BTD.shape)
        x_BTD = jnp.concatenate([x_BTD, start], axis=1)
        content_BTS = hidden_BTS & ~jnp.eye(T, dtype=bool)
        mask = context.mask

        def twice(x):
            return None if x is None else jnp.tile(x, (1, 2))

        q_positions, k_positions = mask.positions(T, T)
        mask = mask.with_(
            q_positions_BT=twice(q_positions),
            k_positions_BS=k_positions,
            q_segments_BT=twice(mask.q_segments_BT),
            hidden_BTS=jnp.concatenate([content_BTS, hidden_BTS], axis=1),
        )
        positions_BT = twice(context.positions_BT)
        changes = {"mask": mask, "positions_BT": positions_BT, "streams": 2}
        return x_BTD, dataclasses.replace(context, **changes)

    def encode(self, batch: Batch) -> jax.Array:
        """The encoder's last hidden states [B, S, D] of an encoder-decoder."""
        tokens = batch["encoder_tokens"]
        given = batch.get("encoder_positions")
        positions = given
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        segments = batch.get("encoder_segment_ids")
        types = batch.get("encoder_token_types")
        x_BSD = self.encoder_embedder(self.embedder.lookup(tokens), positions, types)
        mask = Mask(given, given, segments, segments)
        return self.encoder(x_BSD, Context(mask, positions, token_types_BT=types))[0]
