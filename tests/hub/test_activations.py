"""States and attention maps of all layers against what transformers computed once.

The files are of `tests/parity/make_goldens.py`; on fresh shapes, for every family, the
same comparison is the column "layers" of `bash launch/parity.sh`.
"""

import pytest

from llmjax.hub.load import load
from tests.parity import goldens, ours
from tests.parity.compare import compare_layers
from tests.parity.families import INSPECTED

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.parametrize("name", INSPECTED)
def test_equal_transformers(name, tmp_path):
    golden = goldens.read(goldens.path(name))
    golden.write(tmp_path)
    model, params = load(tmp_path)
    layers = ours.layers(model, params, golden.inputs)
    errors = compare_layers(layers, goldens.read_layers(name))
    assert len(errors) == (5 if model.cfg.architecture == "encoder_decoder" else 2)
    assert not {k: e for k, e in errors.items() if not e.fine}


def test_files_are_those_of_the_variants():
    files = {path.stem for path in (goldens.FOLDER / "layers").iterdir()}
    assert files == {name.replace("/", "-") for name in INSPECTED}
