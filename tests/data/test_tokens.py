"""Token files give back what was written, or say what is wrong."""

import pathlib

import numpy as np
import pytest

from llmjax.data import tokens

DOCUMENTS = [np.array([5, 6, 7]), np.array([], np.int32), np.array([300, 5])]
LABELS = [1, -1, 0]


@pytest.mark.parametrize("vocab", [400, 70_000])
def test_what_was_written_is_read(tmp_path: pathlib.Path, vocab: int) -> None:
    token_bytes = np.arange(vocab, dtype=np.int32)
    pairs = zip(DOCUMENTS, LABELS, strict=True)
    tokens.write(tmp_path / "t", pairs, token_bytes, "key")
    source = tokens.read(tmp_path / "t")
    assert len(source) == 3
    assert source.num_bytes == 5 + 6 + 7 + 300 + 5
    assert source.lengths.tolist() == [3, 0, 2]
    for i, (document, label) in enumerate(zip(DOCUMENTS, LABELS, strict=True)):
        assert source[i]["tokens"].dtype == np.int32
        assert source[i]["tokens"].tolist() == document.tolist()
        assert source[i]["label"] == label
    assert source[-1]["tokens"].tolist() == [300, 5]
    with pytest.raises(IndexError):
        source[3]
    account = tokens.account(tmp_path / "t")
    assert account == {"key": "key", "documents": 3, "tokens": 5, "bytes": 323}


def test_select_and_labelled() -> None:
    source = tokens.from_documents(DOCUMENTS, LABELS)
    kept = source.labelled()
    assert [kept[i]["label"] for i in range(len(kept))] == [1, 0]
    assert [d["tokens"].tolist() for d in (kept[0], kept[1])] == [[5, 6, 7], [300, 5]]
    assert source.select([2, 2]).lengths.tolist() == [2, 2]


def test_a_damaged_or_half_folder_names_itself(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "t"
    pairs = zip(DOCUMENTS, LABELS, strict=True)
    tokens.write(folder, pairs, np.ones(400, np.int32), "k")
    whole = (folder / "tokens.npy").read_bytes()
    (folder / "tokens.npy").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"damaged.*prepare_data"):
        tokens.read(folder)
    np.save(folder / "tokens.npy", np.zeros(4, np.uint16))
    with pytest.raises(ValueError, match=r"4 tokens instead of 5"):
        tokens.read(folder)
    (folder / "account.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"account\.json.*prepare_data"):
        tokens.read(folder)
    assert tokens.account(folder) is None
