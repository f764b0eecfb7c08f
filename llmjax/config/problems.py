"""Configs of the meaning of a classifier's scores, in the words of `problem_type`."""

from typing import ClassVar

from llmjax.config.checks import InsideOne, NotNegative, Positive, checked, require

# --- weights of classes --------------------------------------------------------------


@checked
class EvenWeights:
    """Every class counts alike."""

    kind: ClassVar[str] = "even"


@checked
class BalancedWeights:
    """Weights by how seldom a class is in the training split.

    Of one class of several n / (C * n_c), as scikit-learn's `class_weight="balanced"`;
    of several labels at once the texts without a label by those with it, which weigh
    its presence, as torch's `pos_weight`.

    Attributes:
      values: by class; (): counted where the data is read, which a run's own config
        then has.
    """

    kind: ClassVar[str] = "balanced"
    values: tuple[Positive, ...] = ()


@checked
class GivenWeights:
    """Weights in the order of `task.labels`; of several labels at once, of presence."""

    kind: ClassVar[str] = "given"
    values: tuple[Positive, ...] = ()

    def __post_init__(self):
        require(bool(self.values), "values is empty; give a weight for each class")


ClassWeights = EvenWeights | BalancedWeights | GivenWeights

# --- problems ------------------------------------------------------------------------


@checked
class SingleLabel:
    """One class of several, by a softmax.

    Attributes:
      weights: of the classes in the loss, a weighted mean.
      focal_gamma: power of 1 - p that the loss of a text is multiplied by (Lin et al.
        2017, arXiv:1708.02002); 0: cross entropy.
    """

    kind: ClassVar[str] = "single_label_classification"
    weights: ClassWeights = EvenWeights()
    focal_gamma: NotNegative = 0.0


@checked
class MultiLabel:
    """Any number of classes at once, each by a sigmoid of its own.

    Attributes:
      columns: of the data, one for each class, with 0 or 1; (): one column has lists
        of classes, or their names with `separator` between them.
      separator: of names in a table's cell.
      threshold: the probability from which a class is predicted.
      weights, focal_gamma: see `SingleLabel`; of each class's presence.
    """

    kind: ClassVar[str] = "multi_label_classification"
    columns: tuple[str, ...] = ()
    separator: str = ";"
    threshold: InsideOne = 0.5
    weights: ClassWeights = EvenWeights()
    focal_gamma: NotNegative = 0.0

    def __post_init__(self):
        _check_columns(self.columns)
        require(bool(self.separator), "separator is empty; give one, such as ';'")


@checked
class Regression:
    """One number or several, by the mean squared error.

    Attributes:
      columns: of the data, one for each number; (): one column has it, or lists.
    """

    kind: ClassVar[str] = "regression"
    columns: tuple[str, ...] = ()

    def __post_init__(self):
        _check_columns(self.columns)


@checked
class Ordinal:
    """One of several classes in an order, such as stars: a score and C - 1 thresholds.

    The proportional-odds model (McCullagh 1980): P(class <= k) is the sigmoid of
    threshold k minus the score, and the loss the negative log-likelihood. Thresholds
    rise by construction. As of CORAL (Cao et al. 2020, arXiv:1901.07884), all of them
    share one score; no format of the hub holds them.

    Attributes:
      weights: see `SingleLabel`.
    """

    kind: ClassVar[str] = "ordinal_regression"
    weights: ClassWeights = EvenWeights()


Problem = SingleLabel | MultiLabel | Regression | Ordinal


def _check_columns(columns: tuple[str, ...]) -> None:
    """Raises ValueError for a column that is there twice."""
    require(
        len(set(columns)) == len(columns),
        f"columns has {', '.join(columns)}; give each once",
    )
