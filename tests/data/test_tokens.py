"""Token files give back what was written, or say what is wrong."""

import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
from etils import epath

from llmjax.data.store import tokens

DOCUMENTS = [np.array([5, 6, 7]), np.array([], np.int32), np.array([300, 5])]
LABELS = [1, -1, 0]
SIZES = [11, 0, 7]


def written(
    folder: pathlib.Path,
    vocab: int = 400,
    shards: int | None = None,
) -> pathlib.Path:
    """The documents, the last in a block of its own."""
    for k, these in enumerate((slice(0, 2), slice(2, 3))):
        block = tokens.block(DOCUMENTS[these], LABELS[these], SIZES[these])
        arrays: Any = {f"s/{name}": array for name, array in block.items()}
        np.savez(folder / f"{k}.npz", **arrays)
    files = [epath.Path(folder / f"{k}.npz") for k in range(2)]
    tokens.write(folder / "t", tokens.Blocks(files, "s/"), vocab, "key", shards)
    return folder / "t"


@pytest.mark.parametrize("vocab", [400, 70_000])
@pytest.mark.parametrize("shards", [None, 1, 2, 5])
def test_what_was_written_is_read(
    tmp_path: pathlib.Path, vocab: int, shards: int | None
) -> None:
    folder = written(tmp_path, vocab, shards)
    source = tokens.read(folder)
    assert len(source) == 3
    assert source.num_bytes == 18
    assert source.sizes.tolist() == SIZES
    assert source.lengths.tolist() == [3, 0, 2]
    for i, (document, label) in enumerate(zip(DOCUMENTS, LABELS, strict=True)):
        assert source[i]["tokens"].dtype == np.int32
        assert source[i]["tokens"].tolist() == document.tolist()
        assert source[i]["label"] == label
    assert source[-1]["tokens"].tolist() == [300, 5]
    with pytest.raises(IndexError):
        source[3]
    account = tokens.account(folder)
    assert account is not None
    told = {k: account[k] for k in ("key", "documents", "tokens", "bytes", "shards")}
    assert told == {
        "key": "key",
        "documents": 3,
        "tokens": 5,
        "bytes": 18,
        "shards": shards or 1,
    }
    shard = np.load(folder / f"tokens-00000-of-{shards or 1:05d}.npy")
    assert shard.dtype == (np.uint16 if vocab == 400 else np.int32)


def test_no_document_is_cut_between_shards(tmp_path: pathlib.Path) -> None:
    folder = written(tmp_path, shards=2)
    names = [f"tokens-{k:05d}-of-00002.npy" for k in range(2)]
    assert [np.load(folder / n).tolist() for n in names] == [[5, 6, 7], [300, 5]]


def test_shards_are_by_size(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SHARD_BYTES", 6)  # of uint16: three tokens
    folder = written(tmp_path)
    assert (folder / "tokens-00001-of-00002.npy").exists()
    assert tokens.read(folder)[2]["tokens"].tolist() == [300, 5]


def test_select_and_labelled() -> None:
    source = tokens.from_documents(DOCUMENTS, LABELS)
    kept = source.labelled()
    assert [kept[i]["label"] for i in range(len(kept))] == [1, 0]
    assert [d["tokens"].tolist() for d in (kept[0], kept[1])] == [[5, 6, 7], [300, 5]]
    assert source.select([2, 2]).lengths.tolist() == [2, 2]
    again = pickle.loads(pickle.dumps(kept))
    assert [again[i]["tokens"].tolist() for i in range(2)] == [[5, 6, 7], [300, 5]]


def test_files_are_mapped_and_pickled_as_their_place(tmp_path: pathlib.Path) -> None:
    folder = written(tmp_path, shards=2)
    source = tokens.read(folder)
    arrays = [source.lengths, source.labels, source.sizes, source._starts]
    arrays += source._shards
    assert all(isinstance(a, np.memmap) for a in arrays)
    selected = source.select([2, 0, 1]).select([0, 2])
    for given in (source, selected):
        data = pickle.dumps(given)
        assert len(data) < 600 + 16 * len(given)
        again = pickle.loads(data)
        assert again.labels.tolist() == given.labels.tolist()
        for i in range(len(given)):
            assert again[i]["tokens"].tolist() == given[i]["tokens"].tolist()
    # From the files, not from the pickle.
    (folder / "tokens-00000-of-00002.npy").unlink()
    with pytest.raises(FileNotFoundError, match="tokens-00000"):
        pickle.loads(data)


def test_a_damaged_or_half_folder_names_itself(tmp_path: pathlib.Path) -> None:
    folder = written(tmp_path)
    shard = folder / "tokens-00000-of-00001.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    message = rf"tokens-00000.*{len(whole) - 2} bytes instead of {len(whole)}.*prepare_"
    with pytest.raises(ValueError, match=message):
        tokens.read(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks tokens-00000.*prepare_data"):
        tokens.read(folder)
    (folder / "account.json").write_text('{"key"')
    with pytest.raises(FileNotFoundError, match=r"account\.json.*prepare_data"):
        tokens.read(folder)
    assert tokens.account(folder) is None
