"""The module of each `model_type` of config.json, imported on first use.

A module of this folder has `FAMILIES`, a tuple of `llmjax.hub.table.Family`.
"""

import importlib

from llmjax.hub.table import Family

# model_type -> module; in the order in which `save` looks for one that fits
MODULES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "smollm3": "smollm3",
    "olmo": "olmo",
    "olmo2": "olmo",
    "phi": "phi",
    "phi3": "phi3",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "gpt2": "gpt2",
    "opt": "opt",
    "gptj": "gptj",
    "gpt_neox": "gpt_neox",
    "bloom": "bloom",
    "falcon": "falcon",
    "mixtral": "mixtral",
    "qwen2_moe": "qwen_moe",
    "qwen3_moe": "qwen_moe",
    "gpt_oss": "gpt_oss",
    "deepseek_v3": "deepseek",
    "t5": "t5",
    "mt5": "t5",
    "umt5": "t5",
    "bart": "bart",
    "mbart": "bart",
    "marian": "sinusoidal_bart",
    "pegasus": "sinusoidal_bart",
    "m2m_100": "sinusoidal_bart",
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "camembert": "bert",
    "distilbert": "distilbert",
    "albert": "albert",
    "electra": "bert",
    "deberta-v2": "deberta",
    "modernbert": "modernbert",
    "xlnet": "xlnet",
}


def family(model_type: object) -> Family:
    """The family of a `model_type`.

    Raises:
      ValueError: an unknown one; with those that there are.
    """
    if not isinstance(model_type, str) or model_type not in MODULES:
        raise ValueError(
            f"model_type is {model_type!r}; accepted: {', '.join(MODULES)}"
        )
    module = importlib.import_module(f"llmjax.hub.families.{MODULES[model_type]}")
    (match,) = (f for f in module.FAMILIES if f.name == model_type)
    return match
