"""Every family of the hub, as transformers writes it: what the references run.

A `Variant` is an architecture of transformers with the keyword arguments of its config;
`variants(shapes)` lists them all for one draw of the sizes.
"""

from tests.parity.classifiers import SCORES, classifiers
from tests.parity.decoders import classic_decoders, later_decoders, llamas
from tests.parity.encoder_decoders import encoder_decoders
from tests.parity.encoders import encoders
from tests.parity.mixtures import mixtures
from tests.parity.shapes import Shapes, Variant

FAMILIES = (
    encoders,
    classic_decoders,
    llamas,
    later_decoders,
    mixtures,
    encoder_decoders,
    classifiers,
)


TAGS = [v.name for v in classifiers(Shapes.draw(0)) if v.name.endswith("/tags")]
# classifiers of tokens with a golden file
TAGGED = {"bert/tags", "modernbert/tags", "gpt2/tags", "llama/tags"}


# variants without a golden file, for the live comparison alone: each costs the default
# suite a compilation or two
LIVE_ONLY = {
    "bert/relu",
    "roberta/causal",
    "roberta/pooled",
    "distilbert/untied",
    "albert/groups",
    "albert/pooled",
    "electra/square",
    "electra/tanh",
    "deberta-v2/bare",
    "deberta-v2/v3-head",
    "modernbert/plain",
    "gpt2/untied",
    "opt/post",
    "gpt_neox/tied",
    "bloom/untied",
    "llama/biases",
    "llama/linear",
    "mistral/global",
    "qwen2/global",
    "qwen3/plain",
    "gemma2/uncapped",
    "gemma3_text/default",
    "olmo2/tied",
    "falcon/one-norm",
    "falcon/sequential",
    "phi/normed",
    "phi3/default",
    "phi3/window",
    "phi3/longrope-short",
    "mixtral/global",
    "deepseek_v3/default",
    "deepseek_v3/epsilon",
    "bart/scaled",
    "marian/swish",
    "marian/bare",
    "xlm-roberta/classes",
    "camembert/classes",
    "albert/classes",
    "electra/classes",
    "gpt2/classes",
    "modernbert/classes",
    "gemma3_text/classes",
    "opt/classes",
    "gptj/classes",
    "gpt_neox/classes",
    "bloom/classes",
    "falcon/classes",
    "phi/classes",
    *(f"{name}/classes" for name in SCORES),
    *(name for name in TAGS if name not in TAGGED),
}


# variants with golden activations of every layer: post-norm, disentangled, local and
# global, shared, pre-norm, sinks, latent, capped, two stacks, two streams
INSPECTED = (
    "bert/tied",
    "roberta/tied",
    "deberta-v2/v3",
    "modernbert/biases",
    "albert/shared",
    "gpt2/tied",
    "llama/default",
    "qwen3/tied",
    "gemma2/capped",
    "gemma3_text/scaled",
    "gpt_oss/alternating",
    "deepseek_v3/yarn",
    "t5/1.1",
    "bart/plain",
    "xlnet/two-stream",
)


def variants(shapes: Shapes) -> list[Variant]:
    """Every variant of every family at these sizes."""
    return [variant for build in FAMILIES for variant in build(shapes)]
