"""A run's task and a row of its batches, without a corpus."""

from llmjax.config import RunConfig
from llmjax.data.tokenizers.vocabulary import SPECIALS, PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Task
from llmjax.train.setup import HostBatch


def example(config: RunConfig) -> tuple[Task, HostBatch]:
    """The task, and a row of random text; a ramp is planned at its end.

    Raises:
      ValueError: from `make_task`.
    """
    V = config.model.vocab_size
    room = max(16, V - len(SPECIALS))
    task = make_task(config, PlainVocabulary(min(room, V)))
    return task, task.example_batch()
