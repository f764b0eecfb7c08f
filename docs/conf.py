"""How Sphinx builds these pages: `bash launch/docs.sh`."""

from pathlib import Path

import llmjax
from docs import docstrings, reference

project = "llmjax"
author = "The llmjax authors"
copyright = author
release = version = llmjax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["*.py"]
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The reference shows a signature without types: the docstring and the source have them.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints = "none"
# Beam has an environment of its own, and lm-eval brings many packages.
autodoc_mock_imports = ["apache_beam", "lm_eval"]
add_module_names = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # fields of one name in two classes
# Names of other packages: their pages may not be read while this is built.
nitpick_ignore_regex = [("py:.*", r"(?!llmjax\.).*")]

html_theme = "furo"
html_title = "llmjax"
html_show_sphinx = html_show_copyright = html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "native"


def setup(app):
    """Makes the reference's pages, and changes docstrings; Sphinx calls it."""
    reference.write(Path(__file__).parent / "reference")
    docstrings.connect(app)
