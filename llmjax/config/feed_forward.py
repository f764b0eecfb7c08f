"""The second half of a layer: one MLP, or a mixture of experts."""

from typing import ClassVar, Literal

from llmjax.config.checks import (
    Natural,
    NotNegative,
    Positive,
    Size,
    checked,
    require,
)

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "relu_squared"]


@checked
class Plain:
    """down(f(up(x))) (Vaswani et al. 2017, 3.3)."""

    kind: ClassVar[str] = "plain"
    activation: Activation = "gelu"


@checked
class Gated:
    """down(f(gate(x)) * up(x)): SwiGLU, GEGLU (Shazeer 2020, arXiv:2002.05202)."""

    kind: ClassVar[str] = "gated"
    activation: Activation = "silu"


@checked
class ClampedGated:
    """down(g sigmoid(alpha g) (u + 1)), g, u = gate, up within `limit` (gpt-oss)."""

    kind: ClassVar[str] = "clamped_gated"
    limit: Positive = 7.0
    alpha: Positive = 1.702


@checked
class SoftmaxRouter:
    """softmax over the experts, then the top k, which `normalize` makes sum to 1."""

    kind: ClassVar[str] = "softmax"
    normalize: bool = True


@checked
class SigmoidRouter:
    """DeepSeek-V3 (arXiv:2412.19437, 2.1.2): sigmoids, top k within the top groups.

    A group's score is the sum of its two best; weights are normalised, then scaled.
    """

    kind: ClassVar[str] = "sigmoid"
    groups: Size = 1
    top_groups: Size = 1
    normalize: bool = True
    scale: Positive = 1.0

    def __post_init__(self):
        require(
            self.top_groups <= self.groups,
            f"top_groups={self.top_groups} exceeds groups={self.groups}",
        )


@checked
class BalanceLoss:
    """E * sum(share of tokens * mean probability) (Fedus et al. 2021, eq. 4)."""

    kind: ClassVar[str] = "loss"
    weight: NotNegative = 0.01


@checked
class BalanceBias:
    """A bias on the choice, not the weight, of each expert (Wang et al. 2408.15664).

    Each update moves it by `rate` towards experts that got less than their share.
    """

    kind: ClassVar[str] = "bias"
    rate: NotNegative = 0.001


@checked
class Dropless:
    """Every token reaches its experts: tokens sorted by expert, ragged matmuls."""

    kind: ClassVar[str] = "dropless"


@checked
class Capacity:
    """An expert takes factor * T * top_k / E tokens of a row; later ones are dropped.

    Lepikhin et al. 2020 (arXiv:2006.16668), with groups of one sequence.
    """

    kind: ClassVar[str] = "capacity"
    factor: Positive = 1.25


@checked
class Mixture:
    """A router sends each token to `top_k` of E expert MLPs of width `d_ff`.

    `shared_d_ff` is the width of one more MLP that sees every token, times a sigmoid
    of its own with `shared_gate` (Qwen); `z_loss` weighs mean(logsumexp(router
    logits)^2) (Zoph et al. 2022, arXiv:2202.08906).
    """

    kind: ClassVar[str] = "mixture"
    num_experts: Size = 8
    top_k: Size = 2
    d_ff: Size = 1024
    shared_d_ff: Natural = 0
    expert: Gated | ClampedGated | Plain = Gated()
    router: SoftmaxRouter | SigmoidRouter = SoftmaxRouter()
    balance: BalanceLoss | BalanceBias = BalanceLoss()
    dispatch: Dropless | Capacity = Dropless()
    z_loss: NotNegative = 0.0
    shared_gate: bool = False

    def __post_init__(self):
        require(
            self.top_k <= self.num_experts,
            f"top_k={self.top_k} exceeds num_experts={self.num_experts}",
        )
        require(
            self.shared_d_ff > 0 or not self.shared_gate,
            "shared_gate is True and shared_d_ff 0; give the MLP that it gates a width",
        )
        groups = getattr(self.router, "groups", 1)
        require(
            self.num_experts % groups == 0,
            f"num_experts={self.num_experts} is not a multiple of groups={groups}",
        )


MLP = Plain | Gated | ClampedGated | Mixture
