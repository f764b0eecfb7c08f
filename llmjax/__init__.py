"""llmjax: pretrain, fine-tune, evaluate and serve Transformers in JAX.

The rooms are imported by name (`from llmjax import config`,
`from llmjax.models import transformer`); this file imports none of them, so that
`import llmjax` costs nothing.
"""

__version__ = "0.1.0"
