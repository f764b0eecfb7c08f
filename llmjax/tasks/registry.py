"""From a task's config to the task."""

import dataclasses

import flax.linen as nn

from llmjax import config as cfg
from llmjax.config import RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary, Vocabulary
from llmjax.tasks.embedding.embedding import TextEmbeddingTask
from llmjax.tasks.items.next_item import NextItemTask
from llmjax.tasks.labelled.labelled import LabelledTask
from llmjax.tasks.labelled.multiple_choice import MultipleChoiceTask
from llmjax.tasks.labelled.question_answering import QuestionAnsweringTask
from llmjax.tasks.labelled.relation_extraction import RelationExtractionTask
from llmjax.tasks.labelled.sequence_classification import SequenceClassificationTask
from llmjax.tasks.labelled.token_classification import TokenClassificationTask
from llmjax.tasks.objectives.masked_lm import MaskedLMTask
from llmjax.tasks.objectives.multi_task import GENERATIVE, MultiTask
from llmjax.tasks.objectives.multi_token_prediction import MultiTokenPredictionTask
from llmjax.tasks.objectives.next_sentence import NextSentenceTask
from llmjax.tasks.objectives.permutation_lm import PermutationLMTask
from llmjax.tasks.objectives.replaced_tokens import ReplacedTokensTask
from llmjax.tasks.objectives.sentence_embedding import SentenceEmbeddingTask
from llmjax.tasks.objectives.sentence_order import SentenceOrderTask
from llmjax.tasks.preferences.policy import PolicyTask
from llmjax.tasks.preferences.preference import PreferenceTask
from llmjax.tasks.preferences.reward_model import RewardModelTask
from llmjax.tasks.supervised.chat import ChatTask
from llmjax.tasks.supervised.text_to_text import TextToTextTask
from llmjax.tasks.task import Objective

TASKS: dict[type, type[Objective]] = {
    **GENERATIVE,
    cfg.Chat: ChatTask,
    cfg.TextToText: TextToTextTask,
    cfg.SequenceClassification: SequenceClassificationTask,
    cfg.TokenClassification: TokenClassificationTask,
    cfg.MaskedLM: MaskedLMTask,
    cfg.MultiTask: MultiTask,
    cfg.MultiTokenPrediction: MultiTokenPredictionTask,
    cfg.NextItem: NextItemTask,
    cfg.NextSentence: NextSentenceTask,
    cfg.PermutationLM: PermutationLMTask,
    cfg.Preference: PreferenceTask,
    cfg.Reinforcement: PolicyTask,
    cfg.MultipleChoice: MultipleChoiceTask,
    cfg.QuestionAnswering: QuestionAnsweringTask,
    cfg.RelationExtraction: RelationExtractionTask,
    cfg.ReplacedTokens: ReplacedTokensTask,
    cfg.SentenceEmbedding: SentenceEmbeddingTask,
    cfg.SentenceOrder: SentenceOrderTask,
    cfg.TextEmbedding: TextEmbeddingTask,
    cfg.RewardModel: RewardModelTask,  # behind the classes that have its head
}


def labelled(task: cfg.TaskConfig) -> type[LabelledTask] | None:
    """The task of a config, if it has classes."""
    kind = TASKS[type(task)]
    return kind if issubclass(kind, LabelledTask) else None


def task_of(model: nn.Module) -> cfg.TaskConfig | None:
    """The config of the task whose model this is; None: of no one task."""
    kinds = TASKS.values()
    return next((k.of_model(model) for k in kinds if type(model) is k.head), None)


def make_task(config: RunConfig, vocabulary: Vocabulary) -> Objective:
    """The task of a run, checked against its model and data.

    Raises:
      ValueError: a vocabulary, architecture or packing that does not fit the task.
    """
    task = TASKS[type(config.task)](config, vocabulary)
    kind = config.task.kind
    for name, value, accepted in (
        ("model.architecture", config.model.architecture, task.architectures),
        ("data.packing", config.data.packing, task.packings),
    ):
        if value not in accepted:
            raise ValueError(
                f"task {kind!r} needs {name}={' or '.join(map(repr, accepted))}, not "
                f"{value!r}"
            )
    if not task.reads_loss:
        for name, number in dataclasses.asdict(config.loss).items():
            if number:
                raise ValueError(
                    f"loss.{name}={number} is a term of a cross entropy over tokens or "
                    f"classes, and the loss of task {kind!r} is another; set it to 0"
                )
    data, architecture = config.data, config.model.architecture
    if data.encoder_seq_len is not None and architecture != "encoder_decoder":
        raise ValueError(
            f"data.encoder_seq_len={data.encoder_seq_len} is read by an "
            f"'encoder_decoder', not by a {architecture!r}; leave it out"
        )
    ids = [vocabulary.special_id(token) for token in task.specials]
    needed = max([vocabulary.vocab_size, *(i + 1 for i in ids)])
    if config.model.vocab_size < needed:
        why = f" with {task.specials[ids.index(max(ids))]}" if ids else ""
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} is less than the {needed} ids "
            f"of the tokenizer{why}; set it to that, or to a multiple of 128 above"
        )
    task.check()
    return task


def make_model(config: RunConfig) -> nn.Module:
    """The model whose weights a run of this config holds: its task's, unchecked.

    It needs no corpus, because a task's model does not depend on the vocabulary.
    """
    vocabulary = PlainVocabulary(config.model.vocab_size)
    task = TASKS[type(config.task)](config, vocabulary)
    return task.model(config.model, config.layout)
