"""lm-eval's tasks: what is said where lm-eval is not installed, or a file is missing.

With it, `launch/parity.sh tasks` asks a run and compares it with lm-eval's own model.
"""

import pytest

from experiments import lm_eval_tasks


def test_a_missing_file_is_named_before_anything_is_imported():
    with pytest.raises(ValueError, match="--lm_eval=tasks/x.yaml is no file; give"):
        lm_eval_tasks.load(["tasks/x.yaml"])


def test_without_the_extra_its_name_is_said(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="lm_eval")

    monkeypatch.setattr(lm_eval_tasks.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"'lm_eval' is not.*pip install 'llmjax\[eva"):
        lm_eval_tasks.load(["arc_easy"])
