"""The one Transformer: embeddings, a stack or two, and what goes between them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig, TransformerXL
from llmjax.models.attention.mask import Mask
from llmjax.models.context import Context
from llmjax.models.embedder import Embedder
from llmjax.models.paged import AnyCache
from llmjax.models.positions.lengths import follow_length, text_lengths
from llmjax.models.stack import Stack

Batch = Mapping[str, Any]
ENCODER = frozenset({"encoder_tokens", "encoder_embeddings"})


class Transformer(nn.Module):
    """Decoder, encoder, or encoder-decoder: tokens in, last hidden states out.

    A batch holds `tokens` [B, T], or `embeddings` [B, T, M] in place of the table's
    vectors of tokens (M is `embedding_size`, or D); and where rows are packed or padded
    `segment_ids` and `positions` [B, T]; some models read `token_types` [B, T].
    `lengths` [B, T], of the text that each token is part of, are counted where they are
    not given; rates of rotation that follow a text's length (LongRope, dynamic) read
    them, and who decodes gives them, as later tokens are not there to be counted.
    `prefix` [B, T],
    true for tokens that all of their segment may see, makes a prefix language model.
    `hidden_mask` [B, T, T], true where a token may not see another, makes a model with
    a query stream (XLNet) give that stream's states. An encoder-decoder reads its
    encoder's from the same names after `encoder_`. Dropout is on when an rng named
    "dropout" is passed.
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
        cache: AnyCache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, AnyCache | None]:
        """Hidden states [B, T, D], and the cache when one is passed.

        Args:
          batch: as above; with a cache, `tokens` are the T new ones.
          cache: of the tokens before.
          encoded_BSD: the result of `encode(batch)`, to compute it once; not needed
            once it is in the cache.
        """
        x_BTM, context = self.inputs(batch, cache)
        x_BTD, T = self.embedder.project(x_BTM), x_BTM.shape[1]
        if self.cfg.architecture == "encoder_decoder":
            if encoded_BSD is None and not ENCODER.isdisjoint(batch):
                encoded_BSD = self.encode(batch)
            cross_mask = Mask(
                q_segments_BT=context.mask.q_segments_BT,
                k_segments_BS=batch.get("encoder_segment_ids"),
            )
            context = dataclasses.replace(
                context, encoded_BSD=encoded_BSD, cross_mask=cross_mask
            )
        if "hidden_mask" in batch:
            x_BTD, context = self._two_streams(x_BTD, context, batch["hidden_mask"])
        x_BTD, written = self.stack(x_BTD, context, cache)
        x_BTD = x_BTD[:, -T:]  # of two streams the queries'
        return x_BTD, cache and cache.advance(written, context.mask, T)

    def inputs(
        self, batch: Batch, cache: AnyCache | None = None
    ) -> tuple[jax.Array, Context]:
        """The embeddings [B, T, M] of a batch, and what all layers read beside them.

        `embedder.project` turns the embeddings into the stack's input. Arguments as of
        `__call__`.
        """
        x_BTM = self.embedder.embeddings(batch)
        B, T, _ = x_BTM.shape
        segments_BT, counted_BT = batch.get("segment_ids"), batch.get("positions")
        positions_BT = counted_BT
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
            if cache is not None:
                positions_BT = cache.next_positions(positions_BT)
        mask = Mask(
            counted_BT,
            counted_BT,
            segments_BT,
            segments_BT,
            causal=self.cfg.architecture != "encoder",
            k_prefix_BS=batch.get("prefix"),
        )
        if cache is not None:
            if segments_BT is None:
                segments_BT = jnp.ones((B, T), jnp.int32)
            mask = cache.mask(
                mask.with_(q_positions_BT=positions_BT, q_segments_BT=segments_BT)
            )
        types_BT = batch.get("token_types")
        x_BTM = self.embedder(x_BTM, positions_BT, types_BT)
        lengths_BT = self._lengths(batch.get("lengths"), positions_BT, mask)
        context = Context(mask, positions_BT, lengths_BT, token_types_BT=types_BT)
        return x_BTM, context

    def _lengths(self, lengths_BT: Any, positions_BT: jax.Array, mask: Mask) -> Any:
        """[B, T], of the texts that the queries are part of; None: nothing reads it."""
        if not follow_length(self.cfg):
            return None
        if lengths_BT is not None:
            return lengths_BT
        q_segments_BT, k_segments_BS = mask.q_segments_BT, mask.k_segments_BS
        k_positions_BS = mask.k_positions_BS
        if k_positions_BS is None:
            k_positions_BS = positions_BT
        lengths_BT = text_lengths(q_segments_BT, k_positions_BS, k_segments_BS)
        return jnp.broadcast_to(lengths_BT, positions_BT.shape)

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
        embedder = self.encoder_embedder
        x_BSM = self.embedder.embeddings(batch, "encoder_")
        counted_BS = batch.get("encoder_positions")
        positions_BS = counted_BS
        if positions_BS is None:
            positions_BS = jnp.broadcast_to(jnp.arange(x_BSM.shape[1]), x_BSM.shape[:2])
        segments_BS = batch.get("encoder_segment_ids")
        types_BS = batch.get("encoder_token_types")
        x_BSD = embedder.project(embedder(x_BSM, positions_BS, types_BS))
        mask = Mask(counted_BS, counted_BS, segments_BS, segments_BS)
        lengths_BS = self._lengths(batch.get("encoder_lengths"), positions_BS, mask)
        context = Context(mask, positions_BS, lengths_BS, token_types_BT=types_BS)
        return self.encoder(x_BSD, context)[0]
