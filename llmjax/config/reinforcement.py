"""Configs of learning from rewards for what a model writes.

Every update learns from answers that were drawn for it, so that no ratio of old to new
probabilities differs from 1 and none is clipped. A reward is compared with those of the
same prompt's other answers, its group.
"""

from typing import Annotated, ClassVar

from llmjax.config.checks import INT_MAX, Count, NotNegative, Range, checked


@checked
class GRPO:
    """Rewards less their group's mean, over its deviation; the mean of each answer's
    mean over tokens (Shao et al. 2024, 2402.03300).

    `beta`, here and below: factor of the divergence from the model as the run began.
    """

    kind: ClassVar[str] = "grpo"
    beta: NotNegative = 0.0


@checked
class DrGRPO:
    """Rewards less their group's mean; the sum over an answer's tokens, over the most
    that it may have, which favours no length (Liu et al. 2025, 2503.20783)."""

    kind: ClassVar[str] = "dr_grpo"
    beta: NotNegative = 0.0


@checked
class DAPO:
    """GRPO's rewards; the mean over all tokens of all answers (Yu et al. 2025,
    2503.14476). Its clipping and its drawing again have no place here: groups of equal
    rewards have no gradient, and are counted."""

    kind: ClassVar[str] = "dapo"
    beta: NotNegative = 0.0


@checked
class RLOO:
    """Rewards less the mean of the others of their group, for the log-likelihood of a
    whole answer (Ahmadian et al. 2024, 2402.14740)."""

    kind: ClassVar[str] = "rloo"


PolicyLoss = GRPO | DrGRPO | DAPO | RLOO


@checked
class Reinforcement:
    """Make answers that get rewards likelier.

    Attributes:
      loss: what is minimised.
      group: answers that are drawn to each prompt; `data.batch_size` is a multiple.
      max_new_tokens: the most tokens of an answer.
    """

    kind: ClassVar[str] = "reinforcement"
    loss: PolicyLoss = GRPO()
    group: Annotated[int, Range(2, INT_MAX)] = 8
    max_new_tokens: Count = 64
