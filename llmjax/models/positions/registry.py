"""From the config of positions to their scheme."""

from llmjax import config as c
from llmjax.config import LayerSpec, ModelConfig
from llmjax.models.positions.alibi import AlibiScheme
from llmjax.models.positions.disentangled import DisentangledScheme
from llmjax.models.positions.learned import LearnedScheme
from llmjax.models.positions.relative_bias import RelativeBiasScheme
from llmjax.models.positions.rotary import RotaryScheme
from llmjax.models.positions.scheme import Scheme
from llmjax.models.positions.sinusoidal import SinusoidalScheme
from llmjax.models.positions.transformer_xl import TransformerXLScheme

SCHEMES: dict[type, type[Scheme]] = {
    c.NoPositions: Scheme,
    c.Learned: LearnedScheme,
    c.Sinusoidal: SinusoidalScheme,
    c.Rotary: RotaryScheme,
    c.Alibi: AlibiScheme,
    c.RelativeBias: RelativeBiasScheme,
    c.Disentangled: DisentangledScheme,
    c.TransformerXL: TransformerXLScheme,
}


def scheme(cfg: ModelConfig, spec: LayerSpec | None = None) -> Scheme:
    """The scheme of a model, or of a layer that has its own."""
    own = None if spec is None else spec.positions
    config = cfg.positions if own is None else own
    return SCHEMES[type(config)](cfg, config)
