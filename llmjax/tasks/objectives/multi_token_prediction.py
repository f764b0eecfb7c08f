"""Multi-token prediction: several heads, each for another token ahead."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, Mixture, ModelConfig
from llmjax.models.heads.multi_token import PredictionHeads, last_apart
from llmjax.tasks.objectives.causal_lm import CausalLMTask
from llmjax.tasks.objectives.language import token_weights
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import Batch, Metrics, Outputs


@dataclasses.dataclass(frozen=True, eq=False)
class MultiTokenPredictionTask(CausalLMTask):
    """Gloeckle et al. 2024, arXiv:2404.19737; see `PredictionHeads`.

    `model.num_layers` counts the trunk and the first head, a causal model of its own;
    the paper takes a layer from the trunk for each further head. The losses of the
    heads add up. No head predicts beyond its text's <eos>, nor, where packing cuts a
    text, beyond its row.
    """

    def check(self) -> None:
        """Raises ValueError for a last layer that cannot stand several times."""
        if self.config.depth == 1:
            return
        cfg = last_apart(self.run.model)
        mlp, _ = cfg.layer_mlp(cfg.layers[-1].pattern[-1])
        if isinstance(mlp, Mixture):
            raise ValueError(
                "the heads are layers like the last one, which is a mixture of "
                f"experts; task {self.config.kind!r} needs a dense one: give "
                "model.groups a last layer with another mlp"
            )

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        depth = self.config.depth
        return PredictionHeads(cfg if depth == 1 else last_apart(cfg), layout, depth)

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model, "heads")

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics of the next token as causal LM's; `loss_2`… of tokens further on.

        The count is that of next tokens: a head's sum is not divided by its own number
        of targets.
        """
        count = jnp.sum(token_weights(batch))
        total, metrics = jnp.zeros((), jnp.float32), Metrics()
        for k, head in enumerate(outputs.head, 1):
            shifted, weights_BT = ahead(batch, k - 1)
            head_total, own = self.token_loss(head, shifted, weights_BT, training)
            total += head_total
            suffix = "" if k == 1 else f"_{k}"
            metrics |= {f"{name}{suffix}": m for name, m in own.items()}
        return with_routing(outputs, total, count, metrics)


def ahead(batch: Batch, k: int) -> tuple[Batch, jax.Array]:
    """The batch's targets moved k positions ahead, as `token_loss` reads them.

    Their weights are 0 where the target lies in another segment or beyond the row.
    """
    T = batch["targets"].shape[1]

    def shifted(x_BT):
        return jnp.pad(x_BT[:, k:], ((0, 0), (0, min(k, T))))

    weights_BT = token_weights(batch)
    if k == 0:
        return batch, weights_BT
    weights_BT = shifted(weights_BT)
    segments_BT = batch.get("segment_ids")
    if segments_BT is not None:
        weights_BT = weights_BT * (shifted(segments_BT) == segments_BT)
    return {"targets": shifted(batch["targets"])}, weights_BT
