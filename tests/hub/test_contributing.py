"""CONTRIBUTING's family works as it stands there: its models are saved and loaded."""

import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config, hub
from llmjax.hub import families
from llmjax.models.heads.language import LanguageModel

TEXT = (pathlib.Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def starcoder2(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    module = types.ModuleType("llmjax.hub.families.starcoder2")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(families.MODULES, "starcoder2", "starcoder2")
    return module


def test_the_example_family(starcoder2, tmp_path, random_params):
    window = config.LayerSpec(config.SlidingWindow(3))
    cfg = config.ModelConfig(
        vocab_size=40,
        d_model=18,
        d_ff=20,
        groups=(config.Group(2, (window,)),),
        num_heads=3,
        num_kv_heads=1,
        mlp=config.Plain("gelu_tanh"),
        norm=config.LayerNorm(),
        biases="all",
    )
    model = LanguageModel(cfg)
    batch = {"tokens": jnp.arange(7)[None]}
    params = random_params(model, batch)
    hub.save(model, params, tmp_path / "saved")
    again, loaded = hub.load(tmp_path / "saved")
    assert again.cfg.groups == cfg.groups
    assert again.cfg.positions == cfg.positions
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    (family,) = starcoder2.FAMILIES
    assert family.to_hf(again.cfg)["sliding_window"] == 3
