"""The files of sentence-transformers: both forms are read, and what is refused."""

import json

import pytest

from llmjax.config import TextReading
from llmjax.hub import text_vectors

OLD = {"word_embedding_dimension": 8, "pooling_mode_cls_token": True}
NEW = {"embedding_dimension": 8, "pooling_mode": "lasttoken", "include_prompt": True}


@pytest.mark.parametrize(
    "reading",
    [
        TextReading(),
        TextReading("first", False, "query: ", "passage: ", 128),
        TextReading("last", True, "", "x", 7),
    ],
)
def test_what_is_written_is_read(reading, tmp_path):
    text_vectors.write(tmp_path, reading, 8)
    assert text_vectors.read(tmp_path) == reading


def folder(path, pooling=NEW, types=("Transformer", "Pooling"), **files):
    """As version 6 of the library writes one."""
    modules = [
        {"idx": k, "name": str(k), "path": f"{k}_{t}" if k else "", "type": f"a.b.{t}"}
        for k, t in enumerate(types)
    ]
    (path / "1_Pooling").mkdir(parents=True)
    every = {"modules.json": modules, "1_Pooling/config.json": pooling, **files}
    for name, value in every.items():
        (path / name).write_text(json.dumps(value))
    return path


def test_folders_of_older_and_newer_versions(tmp_path):
    assert text_vectors.read(tmp_path) is None
    old = folder(
        tmp_path / "old",
        OLD,
        ("Transformer", "Pooling", "Normalize"),
        **{"sentence_bert_config.json": {"max_seq_length": 99}},
    )
    assert text_vectors.read(old) == TextReading("first", True, max_length=99)
    prompts = {"passage": "p ", "query": "q "}
    new = folder(
        tmp_path / "new",
        **{
            "tokenizer_config.json": {"model_max_length": 17},
            "sentence_bert_config.json": {"transformer_task": "feature-extraction"},
            "config_sentence_transformers.json": {"prompts": prompts},
        },
    )
    assert text_vectors.read(new) == TextReading("last", False, "q ", "p ", 17)


@pytest.mark.parametrize(
    ("pooling", "types", "files", "message"),
    [
        (
            NEW,
            ("Transformer", "Pooling", "Dense"),
            {},
            "modules Transformer, Pooling, De",
        ),
        (
            NEW | {"pooling_mode": "max"},
            ("Transformer", "Pooling"),
            {},
            "pooling max; ac",
        ),
        (
            OLD | {"pooling_mode_max_tokens": True},
            ("Transformer", "Pooling"),
            {},
            r"pooling \['cls', 'max'\]; accepted: one of cls, mean, lasttoken",
        ),
        (
            NEW | {"include_prompt": False},
            ("Transformer", "Pooling"),
            {},
            "include_prompt false",
        ),
        (
            NEW,
            ("Transformer", "Pooling"),
            {"config_sentence_transformers.json": {"prompts": {"query": 3}}},
            "prompts that are no texts by name",
        ),
        (
            NEW,
            ("Transformer", "Pooling"),
            {"sentence_bert_config.json": {"max_seq_length": "long"}},
            "max_seq_length 'long'; accepted: a number of tokens",
        ),
    ],
)
def test_ways_that_we_cannot_go_are_named(pooling, types, files, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        text_vectors.read(folder(tmp_path / "a", pooling, types, **files))


def test_broken_files_are_named(tmp_path):
    path = folder(tmp_path / "a")
    (path / "modules.json").write_text("{]")
    with pytest.raises(ValueError, match="modules.json is no list of modules"):
        text_vectors.read(path)
