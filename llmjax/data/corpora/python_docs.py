"""The corpus `python_docs`, as a TFDS builder without TensorFlow."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from llmjax.data.cleaning import selection
from llmjax.data.corpora import dataset_info, docstrings, name_masking

CLASSES = (
    "flax",
    "grain",
    "huggingface_hub",
    "jax",
    "matplotlib",
    "numpy",
    "optax",
    "orbax",
    "scipy",
    "sklearn",
    "tensorflow_datasets",
)
_DESCRIPTION = (
    "Docstrings of the standard library and of installed packages, and the language "
    "reference of `help()`, with the package that each document belongs to."
)


@dataclasses.dataclass
class PythonDocsConfig(tfds.core.BuilderConfig):
    """The distributions to read, and the modules of the standard library."""

    sources: tuple[docstrings.Distribution, ...] = docstrings.SOURCES
    stdlib: tuple[str, ...] | None = None  # module names; None: all
    topics: bool = True


def config(size: str = "full") -> PythonDocsConfig:
    """The corpus of this environment, named by the installed versions.

    Args:
      size: "full", or "small" (a tenth, for a quick look).
    Raises:
      ModuleNotFoundError: a distribution that it reads is not installed.
      ValueError: another size.
    """
    name = docstrings.corpus_name(size)
    if size == "small":
        return PythonDocsConfig(
            name=name,
            description=_DESCRIPTION + " A tenth of it.",
            sources=docstrings.SMALL_SOURCES,
            stdlib=("asyncio", "email", "json", "logging"),
            topics=False,
        )
    return PythonDocsConfig(name=name, description=_DESCRIPTION)


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    """Features text, masked_text, package, name (qualified), label (-1: no class)."""

    name = "python_docs"
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "text": tfds.features.Text(),
                "masked_text": tfds.features.Text(),
                "package": tfds.features.Text(),
                "name": tfds.features.Text(),
                "label": np.int32,
            }
        )
        return dataset_info.info(self, _DESCRIPTION, features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        documents = self._collect()
        selected = selection.select(docstrings.clean(d.text) for d in documents)
        examples: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for i, text in selected.texts.items():
            d = documents[i]
            example = {
                "text": text,
                "masked_text": name_masking.mask(text),
                "package": d.package,
                "name": d.name,
                "label": CLASSES.index(d.package) if d.package in CLASSES else -1,
            }
            split = examples.setdefault(selected.splits[i], [])
            split.append((f"{i:08d}", example))
        assert isinstance(self.builder_config, PythonDocsConfig)
        sources = self.builder_config.sources
        versions = docstrings.versions(sources)
        licences = {s.distribution: s.licence for s in sources}
        licences[docstrings.PYTHON] = docstrings.PYTHON_LICENCE
        self.info.metadata.update(
            sources={
                n: {"version": versions[n], "licence": licences[n]} for n in versions
            },
            class_names=list(CLASSES),
            fields=["text", "masked_text"],
            cleaning=selected.counts,
            **dataset_info.account(examples),
        )
        return {split: examples[split] for split in selection.SPLITS}

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError  # _split_generators gives the examples themselves

    def _collect(self) -> list[docstrings.Docstring]:
        assert isinstance(self.builder_config, PythonDocsConfig)
        c = self.builder_config
        documents: list[docstrings.Docstring] = []
        with tqdm(total=len(c.sources) + 1, desc="reading docstrings") as bar:
            for source in c.sources:
                bar.set_postfix_str(source.distribution)
                documents += docstrings.of_distribution(source)
                bar.update()
            bar.set_postfix_str("standard library")
            documents += docstrings.of_stdlib(c.stdlib)
            if c.topics:
                documents += docstrings.of_topics()
            bar.update()
        return documents
