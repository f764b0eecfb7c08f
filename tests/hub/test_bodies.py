"""Which body a file's architecture names: a lone encoder, an older name."""

import json

import jax.numpy as jnp
import pytest

from llmjax import hub
from llmjax.config import ModelConfig, RelativeBias
from llmjax.hub import families
from llmjax.hub.save import find_family
from llmjax.models.heads.encoder import Encoder

T5 = {
    "model_type": "t5",
    "vocab_size": 11,
    "d_model": 6,
    "d_kv": 3,
    "d_ff": 5,
    "num_heads": 2,
    "num_layers": 2,
}


def config_of(hf: dict, architecture: str) -> ModelConfig:
    hf = hf | {"architectures": [architecture]}
    return families.family(hf["model_type"]).to_config(hf)


# --- lone encoders -------------------------------------------------------------------


@pytest.mark.parametrize("says", [True, False])
def test_a_lone_encoder_is_known_by_its_name(says):
    cfg = config_of(T5 | {"is_encoder_decoder": says}, "T5EncoderModel")
    assert (cfg.architecture, cfg.L) == ("encoder", 2)


def test_a_lone_encoder_keeps_its_name(tmp_path, random_params):
    cfg = config_of(T5, "T5EncoderModel")
    model = Encoder(cfg)
    params = random_params(model, {"tokens": jnp.zeros((1, 4), jnp.int32)})
    hub.save(model, params, tmp_path / "encoder")
    written = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert written["architectures"] == ["T5EncoderModel"]
    assert hub.load(tmp_path / "encoder")[0].cfg.architecture == "encoder"


def test_no_family_has_a_head_on_a_lone_encoder():
    cfg = config_of(T5, "T5EncoderModel")
    with pytest.raises(ValueError, match="is_encoder_decoder is False"):
        find_family(cfg, "LanguageModel", "t5")


def test_only_a_tied_umt5_scales_its_output():
    name = "UMT5ForConditionalGeneration"
    tied = config_of(T5 | {"model_type": "umt5"}, name)
    untied = config_of(T5 | {"model_type": "umt5", "tie_word_embeddings": False}, name)
    assert tied.output_scale == 6**-0.5
    assert untied.output_scale == 1.0
    assert isinstance(tied.positions, RelativeBias) and tied.positions.per_layer
