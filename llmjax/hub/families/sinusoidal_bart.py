"""BART with sinusoidal positions: Marian, Pegasus, M2M-100 and NLLB.

Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344) is the Transformer of 2017
(Vaswani et al., 1706.03762) and a bias of the output; its published models have swish
for relu. The paper's own weights were never published. Pegasus (Zhang et al. 2019,
1912.08777) and M2M-100 (Fan et al. 2020, 2010.11125; NLLB 2207.04672) norm before their
sublayers, as mBART does.
"""

import dataclasses
from typing import Any

from llmjax.config import ModelConfig, Sinusoidal
from llmjax.hub.families import accept, bart
from llmjax.hub.table import Family, Table


def table(cfg: ModelConfig) -> Table:
    base = bart.table(cfg)
    sinusoids = r"model\.(en|de)coder\.embed_positions\.weights?"
    return dataclasses.replace(base, ignored=(*base.ignored, sinusoids))


def _sizes(cfg: ModelConfig) -> dict[str, Any]:
    """The keys that these families have in common.

    Raises:
      ValueError: other positions than sinusoids.
    """
    if not isinstance(cfg.positions, Sinusoidal):
        raise ValueError(f"positions is {cfg.positions.kind!r}; accepted: 'sinusoidal'")
    # transformers' table; ours has no end
    return bart.sizes(cfg) | {"max_position_embeddings": 1024}


# --- Marian --------------------------------------------------------------------------


def marian_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(
        hf,
        share_encoder_decoder_embeddings=True,
        decoder_vocab_size=hf["vocab_size"],
    )
    return dataclasses.replace(
        bart.to_config(hf), embedding_norm=False, positions=Sinusoidal(order="halves")
    )


def marian_hf(cfg: ModelConfig) -> dict[str, Any]:
    last = cfg.vocab_size - 1  # Marian's padding, which starts the decoder, too
    return _sizes(cfg) | {
        "decoder_vocab_size": cfg.vocab_size,
        "share_encoder_decoder_embeddings": True,
        "pad_token_id": last,
        "decoder_start_token_id": last,
        "eos_token_id": 0,
    }


# --- Pegasus -------------------------------------------------------------------------


def pegasus_config(hf: dict[str, Any]) -> ModelConfig:
    return dataclasses.replace(
        bart.to_config(hf, "pre"),
        embedding_norm=False,
        positions=Sinusoidal(order="halves"),
    )


# --- M2M-100 and NLLB ----------------------------------------------------------------


def fairseq(size: int, offset: int) -> Sinusoidal:
    """fairseq's sinusoids: the last of size / 2 wavelengths is 10,000 times the first.

    Ours is that of the pair after the last.
    """
    half = size // 2
    if half < 2:
        raise ValueError(f"d_model is {size}; accepted: at least 4")
    return Sinusoidal(10_000.0 ** (half / (half - 1)), "halves", offset)


def m2m_config(hf: dict[str, Any]) -> ModelConfig:
    padding = hf.get("pad_token_id", 1)  # whose row is the one before position 0
    return dataclasses.replace(
        bart.to_config(hf, "pre"),
        embedding_norm=False,
        output_bias=False,
        positions=fairseq(hf["d_model"], padding + 1),
    )


def m2m_hf(cfg: ModelConfig) -> dict[str, Any]:
    hf = _sizes(cfg)
    assert isinstance(cfg.positions, Sinusoidal)
    return hf | {"pad_token_id": cfg.positions.offset - 1}


FAMILIES = (
    Family(
        "marian",
        {"MarianMTModel": "LanguageModel", "MarianModel": "Encoder"},
        marian_config,
        marian_hf,
        table,
    ),
    Family(
        "pegasus",
        {"PegasusForConditionalGeneration": "LanguageModel", "PegasusModel": "Encoder"},
        pegasus_config,
        _sizes,
        table,
    ),
    Family(
        "m2m_100",
        {"M2M100ForConditionalGeneration": "LanguageModel", "M2M100Model": "Encoder"},
        m2m_config,
        m2m_hf,
        table,
    ),
)
