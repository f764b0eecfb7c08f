"""Stage 2 of a corpus: its tokenizer, learned on the training split."""

import dataclasses
import sys
from typing import Any

from etils import epath
from tqdm import tqdm

from llmjax.config import Bytes, DataConfig, Items, Label, TokenizerFile
from llmjax.data.prepare.record_files import RecordFiles
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.documents import Documents
from llmjax.data.store.manifest import read_json, write_json
from llmjax.data.tokenizers import tokenizer as tokenizer_lib

FORMAT = 2  # raise it when the same texts give another tokenizer


def learned(
    folder: epath.Path,
    documents: Documents | RecordFiles,
    data: DataConfig,
    first: Corpus | None,
) -> tokenizer_lib.Tokenizer:
    """The tokenizer in `folder`, learned again unless it is of this very text.

    Of documents it sees the first field, of records all texts. A mixture's others have
    that of the first corpus.

    Raises:
      ValueError: `data.train_split` is no split of the documents.
    """
    account, kind = documents.account, data.tokenizer.kind
    if data.train_split not in account["documents"]:
        raise ValueError(
            f"data.train_split={data.train_split!r} is not a split of "
            f"{documents.folder}; accepted: {', '.join(account['documents'])}"
        )
    learns = not isinstance(data.tokenizer, Bytes | TokenizerFile)
    stage = {
        "content_sha256": account["content_sha256"] if learns else "",
        "tokenizer": {"kind": kind, **dataclasses.asdict(data.tokenizer)},
        "of": first.tokenizer.fingerprint if first else "",
        "split": data.train_split,
        "format": FORMAT,
    }
    path, record = folder / "tokenizer.json", folder / "tokenizer.stage.json"
    if path.exists() and record.exists() and _same_chats(path, documents, data):
        tokenizer = tokenizer_lib.load(path)
        if read_json(record) == {**stage, "sha256": tokenizer.fingerprint}:
            return tokenizer
        if isinstance(data.tokenizer, TokenizerFile):  # learned here: see `prepare`
            given = tokenizer_lib.make(data.tokenizer, ())
            if given.fingerprint == tokenizer.fingerprint:
                return tokenizer
    record.unlink(missing_ok=True)
    if first is not None:
        tokenizer = first.tokenizer
    else:
        texts: Any = _training_texts(documents, data) if learns else ()
        with tqdm(texts, "tokenizer", disable=not learns) as bar:
            tokenizer = tokenizer_lib.make(data.tokenizer, bar)
        size = getattr(data.tokenizer, "vocab_size", 0) if learns else 0
        if tokenizer.vocab_size < size:
            print(
                f"the tokenizer has {tokenizer.vocab_size:,} tokens and not "
                f"data.tokenizer.vocab_size={size:,}: the text holds no more to learn",
                file=sys.stderr,
            )
    tokenizer.save(path)
    saved = tokenizer_lib.load(path).fingerprint
    write_json(record, {**stage, "sha256": saved})
    return tokenizer_lib.load(path)


def _same_chats(
    path: epath.Path, documents: Documents | RecordFiles, data: DataConfig
) -> bool:
    """Whether a tokenizer's chat templates, which its fingerprint leaves out, are those
    of the file that it was read from; True where no conversation is read."""
    if not isinstance(documents, RecordFiles) or not documents.schema.conversations:
        return True
    if not isinstance(data.tokenizer, TokenizerFile):
        return True
    given = tokenizer_lib.make(data.tokenizer, ())
    return tokenizer_lib.load(path).chat_templates == given.chat_templates


def _training_texts(documents: Documents | RecordFiles, data: DataConfig) -> Any:
    """The texts that a tokenizer is learned from, or the names that it has."""
    kind, split = data.tokenizer, data.train_split
    if isinstance(kind, Items):
        fields = documents.schema.fields if isinstance(documents, RecordFiles) else {}
        if not isinstance(field := fields.get(kind.field), Label):
            there = ", ".join(f"{k} ({t.kind})" for k, t in fields.items())
            raise ValueError(
                f"data.tokenizer.field={kind.field!r} is no field of kind 'label'; "
                f"accepted: one of the records' ({there or 'there are none'})"
            )
        return field.classes
    if isinstance(documents, RecordFiles):
        return documents.texts(split)
    names = documents.account["fields"]
    return documents.texts(split, "text" if "text" in names else names[0])
