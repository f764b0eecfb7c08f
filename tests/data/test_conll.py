"""CoNLL's columns, and words with tags whose columns the files tell."""

import gzip
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from llmjax.config import Bytes, DataConfig, PrepareConfig, TokenizerFile
from llmjax.data.files.finding import find
from llmjax.data.files.readers import rows
from llmjax.data.prepare import labelled, prepare

COLUMNS = {"words": "a", "tags": "b"}
FILE = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

German JJ I-NP I-MISC
call NN I-NP O
. . O O
"""


def read(path: pathlib.Path, columns: Any = None) -> list[dict[str, Any]]:
    (file_slice,) = find(str(path)).slices
    return [row.values for row in rows(file_slice, columns or COLUMNS)]


def data(source: pathlib.Path, folder: pathlib.Path, **fields: Any) -> DataConfig:
    rules = PrepareConfig(validation=0.2, test=0.0)
    fields = {"tokenizer": Bytes(), **fields}
    cache = str(folder / "cache")
    config = DataConfig(str(source), directory=cache, prepare=rules, **fields)
    return labelled.with_words(config, "words", "tags", said=False)


@pytest.mark.parametrize("name", ["a.conll", "a.conll.gz"])
def test_sentences_are_read_by_column(name: str, tmp_path: pathlib.Path) -> None:
    text = FILE.encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if "gz" in name else text)
    first, second = read(tmp_path / name)
    assert first == {"words": ["EU", "rejects"], "tags": ["I-ORG", "O"]}
    assert second["words"] == ["German", "call", "."]
    (first, _) = read(tmp_path / name, {"2": "a", "tokens": "b"})
    assert first == {"2": ["NNP", "VBZ"], "tokens": ["EU", "rejects"]}


def test_tabs_divide_where_there_are_any(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.conll").write_text("New York\tB-LOC\r\nis\tO\r\n\r\n")
    (row,) = read(tmp_path / "a.conll")
    assert row == {"words": ["New York", "is"], "tags": ["B-LOC", "O"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb X O\n", "line 2 has 3 columns and the first line 2"),
        ("a\nb\n", "line 1 has one column; accepted: CoNLL's, a word and its tag"),
        ("a O\n", "line 1 has no field 'pos'; it has 'words', 'tokens', 'tags'"),
    ],
)
def test_a_line_that_does_not_fit_is_named(
    text: str, message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a.conll").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.conll, {message}"):
        read(tmp_path / "a.conll", {"pos": "b"} if "pos" in message else None)


def test_a_folder_of_txt_files_is_conll_s_where_tags_are_read(
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "valid"):
        (folder / f"{split}.txt").write_text(FILE)
    corpus = prepare.prepare(data(folder, tmp_path))
    assert corpus.manifest["dataset"]["documents"] == {"train": 2, "validation": 2}
    source = corpus.records("train")
    assert source[1]["words"].words == ("German", "call", ".")
    counts, without = source.word_counts("words")
    assert counts.tolist() == [2, 3] and not without.any()
    assert corpus.schema.fields["tags"].classes == ("I-MISC", "I-ORG", "O")  # type: ignore[union-attr]
    assert source.classes("tags").tolist() == [1, 2, -1, 0, 2, 2, -1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "1 tags for 2 words of 'words'"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "'words', whose word 1 is empty"),
        ({"tokens": ["a"], "tags": [["O"]]}, r"list \['O'\] and no class"),
    ],
)
def test_a_row_whose_tags_do_not_fit_is_named(
    row: Any, message: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "a.jsonl"
    good = {"tokens": ["a"], "tags": ["O"]}
    path.write_text("".join(json.dumps(r) + "\n" for r in (good, row)))
    with pytest.raises(
        ValueError, match=rf"a\.jsonl.*the column 'tags' is .*{message}"
    ):
        prepare.prepare(data(path, tmp_path))


def test_columns_that_nothing_tells_are_listed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["a"], "labels": ["O"], "ner_tags": ["O"]}\n')
    with pytest.raises(
        ValueError, match="that of the tags in data.prepare.fields.*sev"
    ):
        data(path, tmp_path)
    path.write_text('{"tokens": ["a"], "entities": ["O"]}\n')
    with pytest.raises(
        ValueError, match="that of the tags in data.prepare.fields.*non"
    ):
        data(path, tmp_path)
    config = DataConfig(source="conll2003", directory=str(tmp_path))
    fields = labelled.with_words(config, "w", "t", said=False).prepare.fields
    assert [(f.name, f.column) for f in fields] == [("w", "tokens"), ("t", "tags")]
    assert fields[1].type.words == "w"  # type: ignore[union-attr]


def test_a_word_without_a_token_is_counted(tmp_path: pathlib.Path) -> None:
    """A tokenizer that drops control characters leaves such a word nothing."""
    inner = tokenizers.Tokenizer(
        models.WordLevel({"[UNK]": 0, "a": 1, "</s>": 2}, unk_token="[UNK]")
    )
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(["</s>", "[UNK]"])
    inner.save(str(tmp_path / "tokenizer.json"))
    lines = [{"tokens": ["a", "\u200e", "a"], "tags": ["O"] * 3}] * 3
    lines += [{"tokens": ["a", "b."], "tags": ["O"] * 2}] * 3
    (tmp_path / "data").mkdir()
    for name in ("train", "valid"):
        text = "".join(json.dumps(row) + "\n" for row in lines)
        (tmp_path / "data" / f"{name}.jsonl").write_text(text)
    file = TokenizerFile(str(tmp_path / "tokenizer.json"))
    corpus = prepare.prepare(data(tmp_path / "data", tmp_path, tokenizer=file))
    counts = np.stack(corpus.records("train").word_counts("words"), axis=1)
    assert counts.tolist() == [[3, 1]] * 3 + [[2, 0]] * 3
