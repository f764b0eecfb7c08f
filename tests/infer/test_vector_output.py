"""Vectors in a file: whole or not at all, and written on after a kill."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from llmjax.infer.vector_output import VectorOutput


def rows(*numbers):
    return [{"vector": [n, n / 3, -n]} for n in numbers]


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_vectors_are_written_on_after_a_kill(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    output = VectorOutput(path, {"run": "x"})
    output.write(rows(1.0, 2.0), {})
    output.close()
    with (tmp_path / f"a.{ending}.part").open("ab") as part:
        part.write(b"what a kill left")
    output = VectorOutput(path, {"run": "x"})
    assert output.rows == 2
    output.write(rows(3.0), {})
    assert not path.exists()
    output.finish()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    found = load_file(path) if ending == "safetensors" else np.load(path)
    wanted = np.float32([r["vector"] for r in rows(1.0, 2.0, 3.0)])
    np.testing.assert_array_equal(found["vectors"], wanted)
    assert found["vectors"].dtype == np.float32


def test_all_rows_there_and_not_yet_named_is_finished(tmp_path):
    path = tmp_path / "a.npz"
    output = VectorOutput(path, {})
    output.write(rows(1.0), {})
    output.close()
    VectorOutput(path, {}).finish()
    assert np.load(path)["vectors"].shape == (1, 3)


def test_other_endings_are_named(tmp_path):
    with pytest.raises(ValueError, match="ends with '.npy'; accepted: .npz, .safetens"):
        VectorOutput(tmp_path / "a.npy", {})
