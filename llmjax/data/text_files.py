"""A folder of .txt files as a corpus: a TFDS builder without TensorFlow."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from llmjax.data import cleaning, dataset_info

_DESCRIPTION = "One document per .txt file of a folder."


@dataclasses.dataclass
class TextFilesConfig(tfds.core.BuilderConfig):
    """The folder whose .txt files are the documents."""

    folder: str = ""


def config(folder: str) -> TextFilesConfig:
    """The corpus of a folder, named by the hash of its files' names and contents.

    Raises:
      ValueError: there is no .txt file in it.
    """
    files = text_files(folder)
    if not files:
        raise ValueError(f"data.source={folder!r} holds no .txt file; put some there")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return TextFilesConfig(
        name=digest.hexdigest()[:12], description=_DESCRIPTION, folder=folder
    )


def text_files(folder: str) -> list[epath.Path]:
    """The .txt files of a folder, in order."""
    return sorted(epath.Path(folder).expanduser().glob("*.txt"))


class TextFiles(tfds.core.GeneratorBasedBuilder):
    """One document per file (UTF-8), cleaned; features text, name, label (-1)."""

    name = "text_files"
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict(
            {"text": text, "name": text, "label": np.int32}
        )
        return dataset_info.info(self, _DESCRIPTION, features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        assert isinstance(self.builder_config, TextFilesConfig)
        files = text_files(self.builder_config.folder)
        cleaned = cleaning.run(
            f.read_text(encoding="utf-8") for f in tqdm(files, desc="reading files")
        )
        examples: dataset_info.Examples = {split: [] for split in cleaning.SPLITS}
        for i, text in cleaned.texts.items():
            example = {"text": text, "name": files[i].name, "label": -1}
            examples[cleaned.splits[i]].append((f"{i:08d}", example))
        for split, found in examples.items():
            if not found:
                raise ValueError(
                    f"data.source={self.builder_config.folder!r} has too few .txt "
                    f"files: {cleaned.counts} leave none for the split {split!r}; "
                    "give it some dozens, or cut long files into documents"
                )
        self.info.metadata.update(
            class_names=[],
            fields=["text"],
            cleaning=cleaned.counts,
            **dataset_info.account(examples),
        )
        return dict(examples)

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError  # _split_generators gives the examples themselves
