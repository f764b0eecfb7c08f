"""A prepared corpus, ready to be read."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from etils import epath

from llmjax.data.store import tokens
from llmjax.data.store.documents import check_files, open_documents
from llmjax.data.store.record_schema import RecordSchema
from llmjax.data.store.records import RecordSource
from llmjax.data.store.tokens import TokenSource
from llmjax.data.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokenised text, ready to be read.

    Attributes:
      tokenizer: trained on the training split alone, of a mixture's first corpus.
      class_names: the name of each label; () without labels.
      manifest: origin, counts, bytes and hashes of everything.
      folder: has the tokenizer, the token files and the manifest.
      dataset: the folder of the documents or records.
    """

    tokenizer: Tokenizer
    class_names: tuple[str, ...]
    manifest: dict[str, Any]
    folder: epath.Path
    dataset: epath.Path

    def source(self, split: str, field: str = "text") -> TokenSource:
        """The documents of a split as tokens.

        Raises:
          ValueError: the corpus has no such split or field.
        """
        self._require(split, field)
        return tokens.read(self.folder / field / split)

    def texts(self, split: str, field: str = "text") -> Iterable[str]:
        """The documents of a split as text, in the order of `source`.

        Raises:
          ValueError: the corpus has no such split or field, or a file is damaged.
        """
        self._require(split, field)
        check_files(self.dataset)
        documents = open_documents(self.dataset, self.manifest["dataset"])
        return documents.texts(split, field)

    @property
    def schema(self) -> RecordSchema:
        """The fields of the corpus's records, with the names of classes.

        Raises:
          ValueError: the corpus has documents and no records.
        """
        if "schema" not in self.manifest["dataset"]:
            raise ValueError(
                f"the corpus {self.manifest['corpus']} has no records; set "
                "data.prepare.fields and prepare it again"
            )
        return RecordSchema.from_json(self.manifest["dataset"]["schema"])

    def records(self, split: str) -> RecordSource:
        """The records of a split, with the tokens of their texts.

        Raises:
          ValueError: the corpus has no records, or no such split.
        """
        schema, splits = self.schema, self.manifest["dataset"]["documents"]
        if split not in splits:
            raise ValueError(
                f"the corpus {self.manifest['corpus']} has no split {split!r}; "
                f"accepted: {', '.join(splits)}"
            )
        name = f"{split}.arrow"
        files = str(self.dataset / name), str(self.folder / "records" / name)
        return RecordSource(schema, *files)

    def _require(self, split: str, field: str) -> None:
        splits = sorted(self.manifest["token_files"])
        if not splits:
            raise ValueError(
                f"the corpus {self.manifest['corpus']} has records and no documents; "
                "read `records(split)`, or remove data.prepare.fields"
            )
        if f"{field}/{split}" not in splits:
            raise ValueError(
                f"the corpus {self.manifest['corpus']} has no split {split!r} with the "
                f"field {field!r}; accepted (field/split): {', '.join(splits)}"
            )
