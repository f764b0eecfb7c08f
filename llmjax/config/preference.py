"""Configs of the tasks that learn from preferences between answers."""

from typing import Annotated, ClassVar, Literal

from llmjax.config.checks import NotNegative, Positive, Range, checked, require
from llmjax.config.labelled import ClassifierHead, LinearHead

# --- losses --------------------------------------------------------------------------


@checked
class DPO:
    """-log sigmoid(beta * margin) of the log ratios (Rafailov et al. 2023, 2305.18290).

    `beta`, here and below: how near the model stays to what it was.
    """

    kind: ClassVar[str] = "dpo"
    beta: Positive = 0.1


@checked
class IPO:
    """(margin - 1 / (2 beta))**2 of the log ratios per token (Azar et al. 2023,
    2310.12036, 17); per token, as its authors told those of TRL."""

    kind: ClassVar[str] = "ipo"
    beta: Positive = 0.1


@checked
class Hinge:
    """max(0, 1 - beta * margin) of the log ratios (Zhao et al. 2023, 2305.10425)."""

    kind: ClassVar[str] = "hinge"
    beta: Positive = 0.1


@checked
class RobustDPO:
    """DPO where a share `flipped` of the pairs is the wrong way round (Chowdhury et al.
    2024, 2403.00409)."""

    kind: ClassVar[str] = "robust_dpo"
    beta: Positive = 0.1
    flipped: Annotated[float, Range(0, 0.5, "[)")] = 0.1


@checked
class ORPO:
    """The likelihood of the chosen answer and `beta` times the log of the odds ratio's
    sigmoid; without a reference (Hong et al. 2024, 2403.07691).

    `likelihood`: of the whole row, as the authors' code and TRL have it, or of the
    answer alone, as the paper; the mean of each row's mean.
    """

    kind: ClassVar[str] = "orpo"
    beta: Positive = 0.1
    likelihood: Literal["row", "answer"] = "row"


@checked
class SimPO:
    """-log sigmoid(beta * margin - gamma) of the log-likelihoods per token; without a
    reference (Meng et al. 2024, 2405.14734)."""

    kind: ClassVar[str] = "simpo"
    beta: Positive = 2.0
    gamma: NotNegative = 1.0


@checked
class KTO:
    """Answers that are good or bad, each by itself (Ethayarajh et al. 2024,
    2402.01306).

    The baseline, the KL divergence from the reference, is estimated in each batch from
    its answers, each behind the prompt of the next row.

    Attributes:
      beta: see `DPO`.
      desirable, undesirable: weights of the losses of good and of bad answers.
    """

    kind: ClassVar[str] = "kto"
    beta: Positive = 0.1
    desirable: NotNegative = 1.0
    undesirable: NotNegative = 1.0


PreferenceLoss = DPO | IPO | Hinge | RobustDPO | ORPO | SimPO | KTO

# --- tasks ---------------------------------------------------------------------------


@checked
class Preference:
    """Make a language model prefer the answers that people prefer.

    Attributes:
      loss: what is minimised. KTO reads an answer and a label per row, or pairs as two
        rows; the others read pairs.
      reference: what a loss of log ratios compares with. "weights": those that the run
        begins with, held beside those it trains. "stored": their log-likelihoods, which
        are computed once before the first step and kept in the workdir, so that no
        second model is held or run. "records": log-likelihoods that the records have.
      prompt_field, chosen_field, rejected_field: fields of the records with pairs.
      completion_field, label_field: fields of the records with single answers.
      chosen_reference_field, rejected_reference_field: fields of the log-likelihoods
        with `reference` "records", in nats, <eos> included.
    """

    kind: ClassVar[str] = "preference"
    loss: PreferenceLoss = DPO()
    reference: Literal["weights", "stored", "records"] = "weights"
    prompt_field: str = "prompt"
    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    completion_field: str = "completion"
    label_field: str = "label"
    chosen_reference_field: str = "ref_chosen_logps"
    rejected_reference_field: str = "ref_rejected_logps"

    def __post_init__(self):
        require(
            self.reference == "weights" or not isinstance(self.loss, KTO),
            "the loss 'kto' reads answers behind other prompts, which change with the "
            "batch, so that no log-likelihood can be kept; set reference='weights'",
        )


@checked
class RewardModel:
    """A number for each answer, higher for the one that people prefer.

    The loss is that of Bradley & Terry (Ouyang et al. 2022, 2203.02155, 1).

    Attributes:
      centering: factor of the mean of (chosen + rejected)**2, which keeps the numbers
        around 0 (Eisenstein et al. 2023, 2312.09244).
      pooling, head: as `SequenceClassification`'s.
      prompt_field, chosen_field, rejected_field: fields of the records.
      margin_field: of how much better the chosen answer is at least, where records have
        it (Touvron et al. 2023, 2307.09288, 2).
    """

    kind: ClassVar[str] = "reward_model"
    centering: NotNegative = 0.0
    pooling: Literal["mean", "first", "last"] | None = None
    head: ClassifierHead | None = None
    prompt_field: str = "prompt"
    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    margin_field: str = "margin"

    @property
    def labels(self) -> tuple[str, ...]:
        """(): a number is of no class."""
        return ()

    @property
    def form(self) -> ClassifierHead:
        """The head; one matrix where none is said."""
        return self.head or LinearHead(bias=False)
