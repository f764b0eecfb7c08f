"""Every family against what transformers computed once (tests/parity/make_goldens.py).

Tolerance: `tests.parity.compare`. The same comparison on fresh shapes, against the
library itself, is `bash launch/parity.sh`.
"""

import pytest

from llmjax.hub.load import load
from tests.parity import goldens, ours
from tests.parity.compare import compare
from tests.parity.families import LIVE_ONLY, variants
from tests.parity.shapes import Shapes

pytestmark = pytest.mark.usefixtures("quick_compile")
NAMES = [v.name for v in variants(Shapes.draw(0)) if v.name not in LIVE_ONLY]


def test_files_are_those_of_the_variants():
    assert {p.stem for p in goldens.FOLDER.glob("*.npz")} == {
        name.replace("/", "-") for name in NAMES
    }
    assert sum(p.stat().st_size for p in goldens.FOLDER.glob("*.npz")) < 15e6


@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(name, tmp_path):
    golden = goldens.read(goldens.path(name))
    golden.write(tmp_path)
    model, params = load(tmp_path)
    outputs = ours.run(
        tmp_path,
        model,
        params,
        golden.inputs,
        seed=golden.seed,
        decode=golden.outputs.decoded is not None,
    )
    assert outputs.gradients.keys() <= golden.tensors.keys()
    errors = compare(outputs, golden.outputs)
    assert not {k: e for k, e in errors.items() if not e.fine}
