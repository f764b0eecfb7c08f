"""The Transformer of 2017 (Vaswani et al., arXiv:1706.03762) in Marian's form.

Marian (Junczys-Dowmunt et al. 2018, 1804.00344) adds to the paper a bias of the output;
its published models have swish for relu. The paper's own weights were never published.
"""

import dataclasses
from typing import Any

from llmjax.config import ModelConfig, Sinusoidal
from llmjax.hub.families import accept, bart
from llmjax.hub.table import Family, Table


def table(cfg: ModelConfig) -> Table:
    base = bart.table(cfg)
    sinusoids = r"model\.(en|de)coder\.embed_positions\.weight"
    return dataclasses.replace(base, ignored=(*base.ignored, sinusoids))


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(
        hf,
        share_encoder_decoder_embeddings=True,
        decoder_vocab_size=hf["vocab_size"],
    )
    return dataclasses.replace(
        bart.to_config(hf), embedding_norm=False, positions=Sinusoidal(order="halves")
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.positions, Sinusoidal):
        raise ValueError(f"Marian has sinusoids, not {cfg.positions.kind!r} positions")
    last = cfg.vocab_size - 1  # Marian's padding, which starts the decoder, too
    return bart.sizes(cfg) | {
        "decoder_vocab_size": cfg.vocab_size,
        "share_encoder_decoder_embeddings": True,
        "max_position_embeddings": 1024,  # transformers' table; ours has no end
        "pad_token_id": last,
        "decoder_start_token_id": last,
        "eos_token_id": 0,
    }


FAMILIES = (
    Family(
        "marian",
        {"MarianMTModel": "LanguageModel"},
        to_config,
        to_hf,
        table,
    ),
)
