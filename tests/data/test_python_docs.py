"""The corpus of docstrings, at a tenth of its size."""

import contextlib
import importlib.metadata
import itertools
import json
import pathlib
import subprocess
import sys

import pytest

from llmjax.config import BPE, DataConfig
from llmjax.data.corpora import docstrings
from llmjax.data.corpora.name_masking import mask
from llmjax.data.corpora.python_docs import CLASSES
from llmjax.data.files import finding, readers
from llmjax.data.prepare import prepare

ROOT = pathlib.Path(__file__).parents[2]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> prepare.Corpus:
    directory = tmp_path_factory.mktemp("cache")
    data = DataConfig(
        source="python_docs/small",
        directory=str(directory),
        tokenizer=BPE(1024),
    )
    return prepare.prepare(data)


def test_the_manifest_accounts_for_every_document(corpus: prepare.Corpus) -> None:
    dataset = corpus.manifest["dataset"]
    counts = dataset["cleaning"]
    dropped = sum(v for k, v in counts.items() if k.startswith("dropped"))
    assert counts["collected"] == dropped + counts["kept"]
    assert counts["kept"] == sum(dataset["documents"].values())
    for split in SPLITS:
        packages = dataset["documents_per_package"][split]
        assert sum(packages.values()) == dataset["documents"][split]
        assert len(corpus.source(split)) == dataset["documents"][split]
        assert corpus.source(split).num_bytes == dataset["bytes"][split]
        labels = corpus.source(split, "masked_text").labels
        for package in ("flax", "grain", "optax", "orbax"):
            assert (labels == CLASSES.index(package)).sum() == packages[package] > 0
    assert dataset["sources"]["optax"] == {
        "version": importlib.metadata.version("optax"),
        "licence": "Apache-2.0",
    }
    assert corpus.class_names == CLASSES == tuple(sorted(CLASSES))


def test_masked_texts_are_the_texts_masked(corpus: prepare.Corpus) -> None:
    texts = list(corpus.texts("test"))
    masked = list(corpus.texts("test", "masked_text"))
    assert masked == [mask(t) for t in texts] != texts
    assert not any("optax" in t.lower() or "flax" in t.lower() for t in masked)
    assert min(map(len, texts)) >= 80


def test_its_files_can_be_read_as_local_files(corpus: prepare.Corpus) -> None:
    found = finding.find(str(corpus.dataset), "package")
    for split in SPLITS:
        records = [
            record
            for part in found.slices
            if part.split == split
            for record in readers.read(part, "text", "package")
        ]
        assert [text for text, _ in records] == list(corpus.texts(split))
        assert {label for _, label in records} >= {"flax", "optax"}
    with pytest.raises(ValueError, match=r"no field 'txt'; it has .*'text'"):
        next(readers.read(found.slices[0], "txt", ""))


def test_a_dataset_without_an_account_of_ours_is_read_by_its_features(
    corpus: prepare.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "account_of", lambda folder: {})
    data = DataConfig(directory=str(corpus.folder.parents[2]))
    found = prepare._documents(
        data, "python_docs/small", lambda stage: contextlib.nullcontext()
    )
    assert found.account["fields"] == ["text", "masked_text", "package", "name"]
    assert found.account["class_names"] == []
    assert found.account["documents"] == corpus.manifest["dataset"]["documents"]
    assert list(found.texts("test", "text")) == list(corpus.texts("test"))


def test_no_text_leaks_into_another_split(corpus: prepare.Corpus) -> None:
    def grams(text: str) -> frozenset[tuple[str, ...]]:
        kept = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower())
        words = kept.split()
        return frozenset(zip(words, words[1:], words[2:], strict=False))

    found = {s: [grams(t) for t in corpus.texts(s)] for s in SPLITS}
    worst = 0.0
    for a, b in itertools.combinations(SPLITS, 2):
        where: dict[tuple[str, ...], list[int]] = {}
        for i, x in enumerate(found[a]):
            for gram in x:
                where.setdefault(gram, []).append(i)
        for y in found[b]:
            for i in {i for gram in y for i in where.get(gram, ())}:
                both = len(found[a][i] & y)
                worst = max(worst, both / (len(found[a][i]) + len(y) - both))
    # Clusters join at 0.3; a pair is missed with probability 0.2 % there.
    assert 0 < worst < 0.35


def test_the_name_is_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    name = docstrings.corpus_name()
    assert name == docstrings.corpus_name() != docstrings.corpus_name("small")
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda d: "0" if d == "scipy" else real(d)
    )
    assert docstrings.corpus_name() != name


def test_a_missing_distribution_is_named() -> None:
    absent = docstrings.Distribution("no-such-thing", "nothing", "MIT")
    with pytest.raises(ModuleNotFoundError, match=r"'no-such-thing'.*pip install"):
        docstrings.versions([absent])


def test_docstrings_are_read_and_not_imported(tmp_path: pathlib.Path) -> None:
    documents = list(docstrings.of_stdlib(["json", "turtle", "nothing"]))
    by_name = {d.name: d for d in documents}
    assert by_name["json.loads"].text.startswith("Deserialize")
    assert by_name["json.decoder.JSONDecoder.decode"].package == "python"
    assert {d.name.split(".")[0] for d in documents} == {"json"}


def test_no_tensorflow_torch_or_jax_is_imported(corpus: prepare.Corpus) -> None:
    code = (
        "import sys; from llmjax.config import BPE, DataConfig; "
        "from llmjax.data.prepare import prepare; "
        f"c = prepare.open_corpus(DataConfig(source='python_docs/small', "
        f"directory={str(corpus.folder.parents[2])!r}, tokenizer=BPE(1024))); "
        "next(iter(c.texts('test'))); "
        "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_command_writes_its_result(
    corpus: prepare.Corpus, tmp_path: pathlib.Path
) -> None:
    config = tmp_path / "config.py"
    config.write_text(
        "from llmjax import config as cfg\n"
        "def get_config():\n"
        "    config = cfg.default()\n"
        "    config.data.source = 'python_docs/small'\n"
        "    config.data.tokenizer.vocab_size = 1024\n"
        f"    config.data.directory = {str(corpus.folder.parents[2])!r}\n"
        "    return config\n"
    )
    command = [sys.executable, "-m", "experiments.prepare_data"]
    command += [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    subprocess.run(command, check=True, cwd=ROOT)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["token_files"] == corpus.manifest["token_files"]
    assert result["tokenizer_sha256"] == corpus.tokenizer.fingerprint
