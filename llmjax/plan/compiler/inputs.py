"""A run's task and an example batch for it, made of random text instead of a corpus."""

from llmjax.config import RunConfig
from llmjax.data.tokenizers.vocabulary import SPECIALS, PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Task
from llmjax.train.setup import HostBatch


def example(config: RunConfig) -> tuple[Task, HostBatch]:
    """The task, and one row of random text from the run's own pipeline.

    Of a ramp of batch sizes or lengths, the last stage is planned.

    Raises:
      ValueError: see `make_task`.
    """
    V = config.model.vocab_size
    room = max(16, V - len(SPECIALS))
    task = make_task(config, PlainVocabulary(min(room, V)))
    return task, task.example_batch()
