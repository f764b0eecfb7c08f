"""Corpora by name, as TFDS builders: values of `data.source` beside paths.

`BUILDERS["wiki_leads"]("en", data_dir=..., file_format="array_record")` builds
`data.source="wiki_leads/en"`. A factory imports its module only when called, and raises
ValueError for a variant that it does not have. `info.metadata` of its builder has the
class names, the fields and `dataset_info.account`. The builder's full name is the
corpus's: other documents need another config name or version.
"""

from collections.abc import Callable
from typing import Any


def _python_docs(rest: str, **place: Any) -> Any:
    from llmjax.data.corpora import python_docs

    return python_docs.PythonDocs(config=python_docs.config(rest or "full"), **place)


def _wheels(name: str) -> Callable[..., Any]:
    def factory(rest: str, **place: Any) -> Any:
        from llmjax.data.corpora import packaged

        return packaged.builder(name, rest, **place)

    return factory


BUILDERS: dict[str, Callable[..., Any]] = {
    "python_docs": _python_docs,
    **{
        name: _wheels(name)
        for name in (
            "bible",
            "chitchat",
            "clothing_reviews",
            "conll2003",
            "film_reviews",
            "movie_dialogs",
            "sentiment",
            "sms_spam",
            "trec",
            "wiki_leads",
        )
    },
}
