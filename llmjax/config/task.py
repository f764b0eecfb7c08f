"""Config of the task: a self-supervised objective, several of them, or a label."""

from typing import ClassVar

from llmjax.config.checks import NotNegative, checked, require
from llmjax.config.embedding import TextEmbedding
from llmjax.config.labelled import (
    MultipleChoice,
    QuestionAnswering,
    RelationExtraction,
    SequenceClassification,
    TokenClassification,
)
from llmjax.config.next_item import NextItem
from llmjax.config.objectives import (
    UL2,
    CausalLM,
    Denoising,
    FillInTheMiddle,
    MaskedLM,
    MultiTokenPrediction,
    NextSentence,
    PermutationLM,
    PrefixLM,
    ReplacedTokens,
    SentenceEmbedding,
    SentenceOrder,
    SpanCorruption,
)
from llmjax.config.preference import Preference, RewardModel
from llmjax.config.reinforcement import Reinforcement
from llmjax.config.supervised import Chat, TextToText

Generative = CausalLM | PrefixLM | FillInTheMiddle | SpanCorruption | UL2 | Denoising


@checked
class TaskPart:
    """One objective of several, and how many of the rows are its."""

    task: Generative = CausalLM()
    weight: NotNegative = 1.0


@checked
class MultiTask:
    """Several objectives that write text, mixed by rows in one model."""

    kind: ClassVar[str] = "multi_task"
    parts: tuple[TaskPart, ...] = ()

    def __post_init__(self):
        total = sum(part.weight for part in self.parts)
        require(
            total > 0,
            f"the weights of task.parts sum to {total}; give at least one part with "
            "a weight above 0",
        )


TaskConfig = (
    CausalLM
    | PrefixLM
    | FillInTheMiddle
    | MultiTokenPrediction
    | PermutationLM
    | MaskedLM
    | NextSentence
    | SentenceOrder
    | ReplacedTokens
    | SentenceEmbedding
    | SpanCorruption
    | UL2
    | Denoising
    | SequenceClassification
    | TokenClassification
    | QuestionAnswering
    | MultipleChoice
    | RelationExtraction
    | NextItem
    | Preference
    | RewardModel
    | TextEmbedding
    | Chat
    | TextToText
    | Reinforcement
    | MultiTask
)
