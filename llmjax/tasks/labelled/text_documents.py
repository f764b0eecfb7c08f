"""Documents with a class each, numbered as a task's classes."""

import numpy as np

from llmjax.data.store.corpus import Corpus
from llmjax.data.store.tokens import TokenSource
from llmjax.tasks.labelled.problems.problem import Classified


def has_records(corpus: Corpus) -> bool:
    """Whether a corpus has records and no documents."""
    return not corpus.class_names and "schema" in corpus.manifest["dataset"]


def labelled_documents(config: Classified, corpus: Corpus, split: str) -> TokenSource:
    """The documents of a split that have a label.

    Raises:
      ValueError: the corpus has classes that the task has not, or another number of
        them where the task names none.
    """
    names, own = corpus.class_names, config.labels
    if not names:
        raise ValueError(
            "the corpus has no classes; name the column that holds them in "
            "data.prepare.label and prepare it again, or choose another task"
        )
    source = corpus.source(split, config.text_field).labelled()
    if not own:
        if config.num_classes != len(names):
            raise ValueError(
                f"task.num_labels={config.num_classes}, and the corpus has "
                f"{len(names)} classes ({', '.join(names)}); set it to {len(names)}"
            )
        return source
    if strangers := [name for name in names if name not in own]:
        labels = corpus.source(split, config.text_field).labels
        places = np.flatnonzero(labels == names.index(strangers[0]))[:1].tolist()
        where = f" (document {places[0]} of the split {split!r})" if places else ""
        raise ValueError(
            f"the corpus has the class {strangers[0]!r}{where}, and task.labels names "
            f"{', '.join(own)}; add it there, or leave task.labels out"
        )
    if names == own:
        return source
    return source.numbered([own.index(name) for name in names])
