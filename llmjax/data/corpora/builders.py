"""Corpora by name, as TFDS builders: what `data.source` may say beside paths.

`BUILDERS["wiki_leads"]("en", data_dir=..., file_format="array_record")` builds
`data.source="wiki_leads/en"`. A factory imports its module only when called, and raises
ValueError for a rest that it does not know. Its builder tells in `info.metadata` the
class names, the fields and `dataset_info.account`; the corpus is called by its full
name: other documents, another config's name or version.
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
