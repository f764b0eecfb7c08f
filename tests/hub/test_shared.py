"""Shared tensors: under any of their names, repeated, and where the copies differ."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from llmjax import hub
from llmjax.hub import shared
from llmjax.hub.files import StoredTensor
from llmjax.hub.stored_model import open_model
from tests.parity import goldens


def writer(name):
    """A golden variant's folder: (folder, changes of tensors, metadata) -> written."""
    golden = goldens.read(goldens.path(name))

    def write(folder, change=lambda tensors: None, **metadata):
        folder.mkdir()
        golden.write(folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata or None)
        return folder

    return write


def copies_of(folder):
    stored = open_model(folder)
    return shared.copies(stored.table, stored.cfg)


def leaves(folder):
    flat = traverse_util.flatten_dict(hub.load(folder)[1], sep="/")
    return {path: np.asarray(leaf) for path, leaf in jax.device_get(flat).items()}


def same(a, b):
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], path)


TIED = {  # variant -> copies that its family has
    "bart/plain": 3,
    "marian/2017": 3,
    "mbart/scaled": 3,
    "t5/1.0": 3,
    "mt5/gated": 2,
    "bert/tied": 2,
    "roberta/tied": 2,
    "albert/shared": 2,
    "deberta-v2/v3": 2,
    "distilbert/tied": 1,
    "electra/generator": 1,
    "modernbert/biases": 1,
    "xlnet/plain": 1,
    "gpt2/tied": 1,
    "bloom/tied": 1,
    "qwen3/tied": 1,
    "gemma2/capped": 1,
    "gemma3_text/scaled": 1,
    "mixtral/window": 1,
    "deepseek_v3/no-query-rank": 1,
}
UNITED = ("bart", "marian", "mbart")  # families with one table for all


@pytest.mark.parametrize("name", TIED)
def test_a_shared_tensor_has_any_of_its_names(tmp_path, name):
    write = writer(name)
    whole = write(tmp_path / "whole")
    copies = copies_of(whole)
    assert len(copies) == TIED[name]
    expected = leaves(whole)
    for i, (copy, kept) in enumerate(copies.items()):

        def move(tensors, copy=copy, kept=kept):
            tensors[copy] = tensors.pop(kept)

        def repeat(tensors, copy=copy, kept=kept):
            tensors[copy] = tensors[kept].copy()

        same(leaves(write(tmp_path / f"moved{i}", move)), expected)
        same(leaves(write(tmp_path / f"both{i}", repeat)), expected)


@pytest.mark.parametrize("name", TIED)
def test_copies_that_differ_are_no_copies(tmp_path, name):
    """As in transformers 5: the head of the file is the model's, config or not."""
    write = writer(name)
    whole = write(tmp_path / "whole")
    expected, copies = leaves(whole), copies_of(whole)
    entries = open_model(whole).table.entries
    heads = {entry.name for entry in entries if entry.leaf == "unembedding"}
    # an untied head of BERT is a table and a bias, so both are in the file
    whole_head = copies if heads else {}
    for i, (copy, kept) in enumerate(copies.items()):

        def change(tensors, copy=copy, kept=kept):
            tensors[copy] = tensors[kept].copy()
            tensors[copy][-1:] += 1

            for other, source in whole_head.items():
                tensors.setdefault(other, tensors[source].copy())

        folder = write(tmp_path / f"other{i}", change)
        if name.startswith(UNITED) or "embed_tokens" in copy:
            with pytest.raises(ValueError, match=rf"{kept}' and '{copy}' differ"):
                hub.load(folder)
            continue
        loaded = leaves(folder)
        tensors = load_file(folder / "model.safetensors")
        assert not open_model(folder).cfg.tie_embeddings
        (head,) = heads
        np.testing.assert_array_equal(loaded.pop("unembedding"), tensors[head])
        if copy.endswith("bias"):
            np.testing.assert_array_equal(loaded.pop("output_bias"), tensors[copy])
        same(loaded, {path: expected[path] for path in loaded})


def test_a_bare_model_has_no_other_head(tmp_path):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1

    folder = writer("gpt2/tied")(tmp_path / "m", change)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["GPT2Model"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"'lm_head.weight'.*no use for"):
        hub.load(folder)


def test_metadata_names_what_save_model_left_out(tmp_path):
    """`safetensors.torch.save_model` keeps one name and lists the others."""
    write, table = writer("t5/1.0"), "decoder.embed_tokens.weight"
    expected = leaves(write(tmp_path / "whole"))

    def move(tensors):
        tensors[table] = tensors.pop("shared.weight")

    others = ("shared.weight", "encoder.embed_tokens.weight", "lm_head.weight")
    names = dict.fromkeys(others, table)
    same(leaves(write(tmp_path / "moved", move, format="pt", **names)), expected)

    def tie(tensors):
        """Two layers' norms in one tensor, as PyTorch shares them."""
        first, second = (f"model.layers.{i}.input_layernorm.weight" for i in (0, 1))
        tensors[second] = tensors.pop(first)

    write = writer("qwen3/tied")
    norms = {f"model.layers.{i}.input_layernorm.weight": i for i in (0, 1)}
    first, second = norms
    loaded = leaves(write(tmp_path / "norms", tie, **{first: second}))
    scale = loaded["transformer/stack/group_0/layer_0/attention_norm/scale"]
    np.testing.assert_array_equal(scale[0], scale[1])


@pytest.mark.parametrize("name", ["t5/1.1", "mt5/gated"])
def test_t5_s_head_is_its_own_where_transformers_wrote_it(tmp_path, name):
    """Version 5 says that embeddings are tied and yet writes the head of the file."""
    folder = writer(name)(tmp_path / "m")
    expected = leaves(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = hub.load(folder)
    assert (model.cfg.tie_embeddings, model.cfg.output_scale) == (False, 1.0)
    same(leaves(folder), expected)


def test_comparing_reads_block_by_block(monkeypatch):
    """Tensors that differ in their last row; no block is as large as they are."""
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    blocks = []

    def stored(array, kind="F32"):
        def read(index):
            blocks.append(array[index].shape[0])
            return array[index]

        return StoredTensor(Path("m"), array.shape, kind, array.dtype, read)

    monkeypatch.setattr(shared, "BLOCK_BYTES", 7 * rows[0].nbytes)
    other = rows.copy()
    assert shared.equal(stored(rows), stored(other))
    assert blocks == [7, 7, 7, 7, 6, 6]
    other[-1, -1] = 0
    assert not shared.equal(stored(rows), stored(other))
    assert shared.equal(stored(rows), stored(rows.astype(np.float16), "F16"))


def test_an_untied_head_s_bias_is_saved_under_both_names(tmp_path):
    """transformers has both, reads `decoder.bias`, and warns where the other lacks."""

    def untie(tensors):
        table = tensors["bert.embeddings.word_embeddings.weight"]
        tensors["cls.predictions.decoder.weight"] = table + 1
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"] + 1

    folder = writer("bert/tied")(tmp_path / "m", untie)
    hub.save(*hub.load(folder), tmp_path / "again")
    written = load_file(tmp_path / "again" / "model.safetensors")
    expected = load_file(folder / "model.safetensors")
    assert expected.keys() == written.keys()
    bias = expected["cls.predictions.decoder.bias"]
    for name in ("cls.predictions.decoder.bias", "cls.predictions.bias"):
        np.testing.assert_array_equal(written[name], bias)
    same(leaves(tmp_path / "again"), leaves(folder))
