"""config.json in the shapes that the field ships, older and newer ones.

spellings.json has them with every key that their makers and the libraries of their time
left in them, and what our config has to say of each.
"""

import json
from pathlib import Path

import pytest

from llmjax.hub import families
from llmjax.hub.meaning import normal
from llmjax.hub.save import find_family

MODELS = json.loads(Path(__file__).with_name("spellings.json").read_text())


def said(cfg, name):
    """A property of the config, or of its positions."""
    if name == "scaling":
        return cfg.positions.scaling.kind
    holder = cfg if hasattr(cfg, name) else cfg.positions
    return getattr(holder, name)


@pytest.mark.parametrize("entry", MODELS, ids=lambda e: e["model"].replace(" ", "_"))
def test_a_published_config_is_read(entry):
    config, expected = entry["config"], entry["expect"]
    family = families.family(config["model_type"])
    cfg = family.to_config(config)
    assert {name: said(cfg, name) for name in expected} == expected
    head = family.architectures[config["architectures"][0]]
    # and said again in today's spelling it means the same
    assert find_family(cfg, head, family.name) is family
    again = family.to_config(family.to_hf(cfg) | {"architectures": None})
    assert normal(again, head) == normal(cfg, head)
