"""A path that exists is a path; what is left out, or is not there, is named."""

import gzip
import json
import os
import pathlib

import pytest

from llmjax.config import Bytes, DataConfig, PrepareConfig
from llmjax.data.files import finding, readers
from llmjax.data.prepare import prepare


def texts(source: str | pathlib.Path) -> list[str]:
    listing = finding.find(str(source))
    return [t for s in listing.slices for t, _ in readers.read(s, "text", "")]


def line(text: str) -> str:
    return json.dumps({"text": text}) + "\n"


def corpus(source: str | pathlib.Path, cache: pathlib.Path) -> prepare.Corpus:
    rules = PrepareConfig(min_characters=0, validation=0.0, test=0.0, workers=1)
    return prepare.prepare(
        DataConfig(str(source), directory=str(cache), tokenizer=Bytes(), prepare=rules)
    )


@pytest.mark.parametrize(
    "name", ["[D_DATA]", "b[1].jsonl", "what?", "a*b.jsonl", "~x.txt", "{a,b}", " é "]
)
def test_what_exists_under_a_name_is_no_glob(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if path.suffix:
        path.write_text("x" if path.suffix == ".txt" else line("x"))
    else:
        path.mkdir()
        (path / "c[d].jsonl").write_text(line("x"))
    monkeypatch.chdir(tmp_path)
    sources = [path, f"{path}/", f"./{name}"] if path.is_dir() else [path, name]
    assert [texts(source) for source in sources] == [["x"]] * len(sources)
    made = corpus(path, tmp_path.with_name(tmp_path.name + "-cache"))
    assert list(made.texts("train")) == ["x"]


def test_globs_are_of_files_and_folders_at_any_depth(tmp_path: pathlib.Path) -> None:
    for name in ("a/1.txt", "a/b/2.txt", "c/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path / "**" / "*.txt") == ["a/1.txt", "a/b/2.txt", "c/3.txt"]
    assert texts(tmp_path / "[ab]") == ["a/1.txt", "a/b/2.txt"]
    assert texts(tmp_path / "*") == ["a/1.txt", "a/b/2.txt", "c/3.txt"]


def test_hidden_files_and_folders_are_left_out(tmp_path: pathlib.Path) -> None:
    place = tmp_path / ".hidden_above"
    for name in (
        "a.txt",
        ".b.txt",
        "._a.txt",
        ".ipynb_checkpoints/a.txt",
        "c/.git/d.jsonl",
        "c/e.txt",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    assert texts(place) == ["a.txt", "c/e.txt"]
    assert texts(place / ".b.txt") == [".b.txt"]  # by its own name
    assert finding.find(str(place)).left_out == ()


def test_links_are_followed_once_and_dead_ones_are_errors(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.txt").write_text("1")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "round").symlink_to(tmp_path / "near")
    assert texts(tmp_path / "near") == ["1"]
    (tmp_path / "near" / "dead.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"dead\.txt cannot be read \(No such file"):
        texts(tmp_path / "near")


def test_every_spelling_of_a_format_is_read_and_others_are_named(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.JSONL").write_text(line("a"))
    (folder / "b.json").write_text(json.dumps([{"text": "b"}]))
    (folder / "c.txt.gz").write_bytes(gzip.compress(b"c"))
    (folder / "d.Csv").write_text("text\nd\n")
    (folder / "e.TXT").write_text("e")
    (folder / "f.Json.Gz").write_bytes(gzip.compress(line("f").encode()))
    (folder / "dataset_infos.json").write_text("{}")
    for name in ("g.pdf", "h.pdf", "README", "i.parquet.gz"):
        (folder / name).write_text("x")
    made = corpus(folder, tmp_path / "cache")
    assert sorted(made.texts("train")) == [*"abcdef"]
    error = capfd.readouterr().err
    left_out = "mixed': 5 files left out, of no format that is read: 2 .pdf (g.pdf)"
    assert left_out in error
    assert "1 without an ending (README)" in error and "1 .gz (i.parquet.gz)" in error
    for file in [*folder.glob("[a-f]*"), folder / "dataset_infos.json"]:
        file.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"holds no file .*It has 2 \.pdf \(g\.pdf\)"):
        corpus(folder, tmp_path / "cache")


def test_a_folder_of_hidden_files_says_so(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".b").mkdir()
    for name in (".a.txt", ".b/c.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=r"Not read: 2 hidden files, as \.a\.txt\."):
        finding.find(str(tmp_path))


def test_what_describes_a_dataset_is_no_data(tmp_path: pathlib.Path) -> None:
    (tmp_path / "features.json").write_text("{}")
    (tmp_path / "label.labels.txt").write_text("dog\ncat")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("a")
    assert texts(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "Data/trian.jsonl",
            r"the folder '.*/Data' has no 'trian\.jsonl'; did you",
        ),
        ("data/train.jsonl", r"has no 'data'; did you mean 'Data'\?"),
        ("Data/sub/x/y.txt", r"the folder '.*/Data/sub' has no 'x'$"),
        ("Data/*.csv", r"the folder '.*/Data' has no '\*\.csv'$"),
        ("Data/train.jsonl/x", r"'Data/train\.jsonl' is a file and no folder"),
        ("./Dato", r"has no 'Dato'; did you mean 'Data'\?"),
    ],
)
def test_a_mistyped_path_says_where_it_ends(
    source: str, message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Data" / "sub").mkdir(parents=True)
    (tmp_path / "Data" / "train.jsonl").write_text(line("x"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        corpus(source, tmp_path / "cache")
    assert "is not there" in str(error.value) and "python_docs" not in str(error.value)


def test_a_name_alone_may_be_a_corpus_or_a_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkdir(tmp_path / "my_books")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean 'my_books'\?; accepted: 'b"):
        corpus("my_boks", tmp_path / "cache")
    with pytest.raises(ValueError, match=r"did you mean 'sms_spam'\? accepted: 'bible"):
        corpus("smsspam", tmp_path / "cache")
