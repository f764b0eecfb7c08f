"""Config of recommending: which item a user's history goes on with."""

from typing import ClassVar

from llmjax.config.checks import BelowOne, Count, Share, checked, require

# --- losses --------------------------------------------------------------------------


@checked
class FullSoftmax:
    """Cross entropy over all items (Klenitskiy & Vasilev 2023, 2309.07602)."""

    kind: ClassVar[str] = "softmax"


@checked
class SampledNegatives:
    """A sigmoid for the item and for others that the user never had.

    SASRec's binary cross entropy with one of them (Kang & McAuley 2018, 1808.09781).

    Attributes:
      draws: negatives at each place, drawn evenly from all other items.
      calibration: gSASRec's t (Petrov & Macdonald 2023, 2308.07192), which makes up for
        the items that are not drawn; 0: none.
    """

    kind: ClassVar[str] = "sampled"
    draws: Count = 1
    calibration: Share = 0.0


# --- splits --------------------------------------------------------------------------


@checked
class LeaveLastOut:
    """The last item of each user is the test, the one before it the validation.

    Users with less than three events are learned from alone.
    """

    kind: ClassVar[str] = "leave_last_out"


@checked
class GlobalTime:
    """Nothing is learned that happened after a moment: shares of all events by time.

    A user's first event in a period is predicted from all events before the period.

    Attributes:
      validation, test: shares of the events, the test's the last.
    """

    kind: ClassVar[str] = "global_time"
    validation: BelowOne = 0.1
    test: BelowOne = 0.1

    def __post_init__(self):
        require(
            self.validation + self.test < 1,
            f"validation={self.validation} and test={self.test} leave nothing to train",
        )


# --- the task ------------------------------------------------------------------------


@checked
class NextItem:
    """The next item of a user's history, by a causal Transformer over items.

    SASRec (Kang & McAuley 2018, 1808.09781) with a beginning before the first item, so
    that a user without a history is answered too.

    Attributes:
      loss: of each item, given those before it.
      split: what of the events is held out.
      top: items of an answer, and of the lists that metrics look at.
      exclude_seen: whether items of the history that is read are never answered.
      user_field, item_field, time_field: fields of the records, an event each; events
        of one time stay in the order of the file.
    """

    kind: ClassVar[str] = "next_item"
    loss: FullSoftmax | SampledNegatives = FullSoftmax()
    split: LeaveLastOut | GlobalTime = LeaveLastOut()
    top: Count = 10
    exclude_seen: bool = False
    user_field: str = "user"
    item_field: str = "item"
    time_field: str = "time"

    def __post_init__(self):
        names = self.user_field, self.item_field, self.time_field
        require(
            len(set(names)) == len(names),
            f"the fields have the names {', '.join(names)}; give each its own",
        )
