"""Tiny models of every family as transformers writes them: what the references run.

A `Variant` is an architecture of transformers with the keyword arguments of its
config; `variants(shapes)` lists them all for one draw of the sizes. Sizes are odd on
purpose: head counts that are no powers of two, windows shorter than the row, soft caps
small enough to matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shapes:
    """The sizes of one draw; letters as in the legend of `llmjax.parallel.axes`."""

    N: int  # heads; query heads where keys are grouped: twice or three times K
    K: int
    H: int  # even: rotary positions turn pairs
    F: int
    V: int
    E: int
    T: int
    S: int  # length of the encoder's rows

    @property
    def D(self) -> int:
        """The width where a family has no other choice."""
        return self.N * self.H

    @property
    def D_free(self) -> int:
        """A width other than N * H that N still divides, as some configs demand."""
        return self.N * (self.H - 1)

    @classmethod
    def draw(cls, seed: int) -> "Shapes":
        """Random sizes; seed 0 gives the ones of the golden files."""
        rng = np.random.default_rng(seed)
        n, k = rng.choice([(6, 2), (6, 3), (9, 3), (5, 1)] if seed else [(6, 3)])
        return cls(
            N=int(n),
            K=int(k),
            H=int(rng.choice([4, 6, 8])) if seed else 4,
            F=int(rng.integers(11, 30)) if seed else 13,
            V=int(rng.integers(41, 70)) if seed else 43,
            E=int(rng.choice([4, 6])) if seed else 6,
            T=int(rng.integers(10, 15)) if seed else 11,
            S=int(rng.integers(6, 10)) if seed else 7,
        )


@dataclass(frozen=True)
class Variant:
    """One model to compare: how transformers builds it and what it can be asked.

    name: family and variant, "llama/yarn". architecture: class of transformers.
    config: its config's arguments. kind: "encoder", "decoder" or "encoder-decoder".
    left_padding: whether a row may start with padding. token_types: how many kinds to
    draw. two_stream: XLNet's query stream. decode: whether cached decoding is compared;
    False wants a comment beside it. takes_positions: whether it has `position_ids`.
    """

    name: str
    architecture: str
    config: dict
    kind: str = "decoder"
    left_padding: bool = True
    token_types: int = 0
    two_stream: bool = False
    decode: bool = True
    takes_positions: bool = True

    @property
    def family(self) -> str:
        return self.name.split("/")[0]


def encoders(s: Shapes) -> Iterator[Variant]:
    """BERT and what came of it; the heads are those they were pretrained with."""
    common = dict(
        vocab_size=s.V,
        hidden_size=3 * s.H,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=s.F,
        max_position_embeddings=s.T + 5,
    )

    def encoder(name, architecture, **config):
        known = dict(kind="encoder", token_types=config.get("type_vocab_size", 0))
        known |= dict(decode=False)
        for key in ("left_padding", "two_stream", "token_types", "takes_positions"):
            if key in config:
                known[key] = config.pop(key)
        return Variant(name, architecture, config, **known)

    bert = common | dict(type_vocab_size=3)
    yield encoder("bert/tied", "BertForMaskedLM", **bert)
    # the first of a row is pooled, be it padding
    pooled = dict(left_padding=False)
    yield encoder("bert/pooled", "BertModel", **bert, **pooled)
    yield encoder(
        "bert/relu", "BertForMaskedLM", **common, type_vocab_size=2, hidden_act="relu"
    )
    roberta = common | dict(type_vocab_size=1, pad_token_id=1, takes_positions=False)
    yield encoder("roberta/tied", "RobertaForMaskedLM", **roberta)
    yield encoder("roberta/pooled", "RobertaModel", **roberta, **pooled)
    distilbert = dict(
        vocab_size=s.V,
        dim=3 * s.H,
        n_heads=3,
        n_layers=2,
        hidden_dim=s.F,
        max_position_embeddings=s.T + 5,
    )
    yield encoder("distilbert/tied", "DistilBertForMaskedLM", **distilbert)
    yield encoder(
        "distilbert/untied",
        "DistilBertForMaskedLM",
        **distilbert,
        tie_word_embeddings=False,
    )
    albert = common | dict(type_vocab_size=2, embedding_size=s.F - 2)
    yield encoder(
        "albert/shared", "AlbertForMaskedLM", **albert | dict(num_hidden_layers=3)
    )
    yield encoder("albert/pooled", "AlbertModel", **albert, **pooled)
    electra = common | dict(type_vocab_size=2, embedding_size=s.F - 2)
    yield encoder("electra/discriminator", "ElectraForPreTraining", **electra)
    yield encoder("electra/generator", "ElectraForMaskedLM", **electra)
    yield encoder(
        "electra/square",  # embeddings as wide as the model: no projection
        "ElectraForMaskedLM",
        **electra | dict(embedding_size=3 * s.H),
    )
    deberta = common | dict(
        type_vocab_size=0,
        layer_norm_eps=1e-7,
        relative_attention=True,
        position_buckets=6,  # shorter than the rows: distant positions share buckets
        max_relative_positions=-1,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
    )
    yield encoder("deberta-v2/v3", "DebertaV2ForMaskedLM", **deberta)
    yield encoder("deberta-v2/v3-head", "DebertaV2ForMaskedLM", **deberta, legacy=False)
    yield encoder("deberta-v2/bare", "DebertaV2Model", **deberta)
    modern = common | dict(
        hidden_size=6 * s.H,
        num_attention_heads=6,
        num_hidden_layers=4,  # global, local, local, global
        local_attention=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    )
    yield encoder("modernbert/plain", "ModernBertForMaskedLM", **modern)
    yield encoder(
        "modernbert/biases",
        "ModernBertForMaskedLM",
        **modern,
        norm_bias=True,
        attention_bias=True,
        mlp_bias=True,
        classifier_bias=True,
    )
    xlnet = dict(
        vocab_size=s.V,
        d_model=3 * s.H,
        n_head=3,
        n_layer=2,
        d_inner=s.F,
        token_types=2,
        pad_token_id=0,
        use_mems_eval=False,
    )
    yield encoder("xlnet/plain", "XLNetLMHeadModel", **xlnet)
    yield encoder("xlnet/two-stream", "XLNetLMHeadModel", **xlnet, two_stream=True)


def classic_decoders(s: Shapes) -> Iterator[Variant]:
    """GPT-2, GPT-NeoX and BLOOM (whose ALiBi has no other family here)."""
    gpt2 = dict(
        vocab_size=s.V,
        n_embd=3 * s.H,
        n_head=3,
        n_layer=2,
        n_positions=s.T + 9,
        bos_token_id=1,
        eos_token_id=2,
    )
    yield Variant("gpt2/tied", "GPT2LMHeadModel", gpt2)
    yield Variant(
        "gpt2/untied",
        "GPT2LMHeadModel",
        gpt2 | dict(n_inner=s.F, tie_word_embeddings=False, activation_function="relu"),
    )
    neox = dict(
        vocab_size=s.V,
        hidden_size=3 * 8,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=s.F,
        max_position_embeddings=s.T + 9,
        rope_parameters=dict(
            rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5
        ),
    )
    yield Variant("gpt_neox/parallel", "GPTNeoXForCausalLM", neox)
    yield Variant(
        "gpt_neox/sequential",
        "GPTNeoXForCausalLM",
        neox | dict(use_parallel_residual=False, attention_bias=False),
    )
    yield Variant(
        "gpt_neox/tied", "GPTNeoXForCausalLM", neox | dict(tie_word_embeddings=True)
    )
    bloom = dict(vocab_size=s.V, hidden_size=3 * s.H, n_head=3, n_layer=2)
    yield Variant("bloom/tied", "BloomForCausalLM", bloom)
    yield Variant(
        "bloom/untied",
        "BloomForCausalLM",
        bloom | dict(n_head=5, hidden_size=5 * s.H, tie_word_embeddings=False),
    )


def grouped(s: Shapes, **config) -> dict:
    """What the decoders since Llama share."""
    return (
        dict(
            vocab_size=s.V,
            hidden_size=s.D,
            num_attention_heads=s.N,
            num_key_value_heads=s.K,
            num_hidden_layers=2,
            intermediate_size=s.F,
            max_position_embeddings=s.T + 9,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        | config
    )


def rope(kind: str, **parameters) -> dict:
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0) | parameters)


def llamas(s: Shapes) -> Iterator[Variant]:
    """Llama with every scaling of its rotary positions; Mistral; Qwen 2 and 3."""

    def llama(name, **config):
        config = grouped(s, hidden_size=s.D_free, head_dim=s.H) | config
        decode = config.pop("decode", True)
        return Variant(f"llama/{name}", "LlamaForCausalLM", config, decode=decode)

    yield llama("default")
    yield llama("biases", attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
    yield llama("linear", **rope("linear", factor=3.0))
    yield llama(
        "dynamic",
        **rope("dynamic", factor=2.0),
        max_position_embeddings=s.T - 4,
        # transformers leaves the cached keys turned by the frequencies of the length
        # they were computed at, so that its cached decoding isn't its full forward.
        decode=False,
    )
    # Long enough originals that the ramp lies inside the few frequencies of a head.
    long = dict(head_dim=8, max_position_embeddings=256)
    yield llama(
        "yarn",
        **rope("yarn", factor=4.0, original_max_position_embeddings=64),
        **long,
    )
    yield llama(
        "llama3",
        **rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
        **long,
    )
    mistral = grouped(s, hidden_size=s.D_free, head_dim=s.H)
    yield Variant(
        "mistral/window", "MistralForCausalLM", mistral | dict(sliding_window=4)
    )
    yield Variant(
        "mistral/global", "MistralForCausalLM", mistral | dict(sliding_window=None)
    )
    qwen2 = grouped(s)
    yield Variant("qwen2/global", "Qwen2ForCausalLM", qwen2)
    yield Variant(
        "qwen2/window",
        "Qwen2ForCausalLM",
        qwen2
        | dict(
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=1,
            num_hidden_layers=3,
            tie_word_embeddings=True,
        ),
    )
    qwen3 = grouped(s, hidden_size=s.D_free, head_dim=s.H + 2)
    yield Variant("qwen3/plain", "Qwen3ForCausalLM", qwen3)
    yield Variant(
        "qwen3/tied",
        "Qwen3ForCausalLM",
        qwen3 | dict(tie_word_embeddings=True, attention_bias=True),
    )


def later_decoders(s: Shapes) -> Iterator[Variant]:
    """Gemma 2 and 3, OLMo 2 and Phi-3."""
    gemma = grouped(
        s,
        hidden_size=s.D_free,
        head_dim=s.H + 2,
        num_hidden_layers=3,
        query_pre_attn_scalar=5,
        sliding_window=4,
    )
    yield Variant(
        "gemma2/capped",
        "Gemma2ForCausalLM",
        gemma | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    )
    yield Variant(
        "gemma2/uncapped",
        "Gemma2ForCausalLM",
        gemma | dict(attn_logit_softcapping=None, final_logit_softcapping=None),
    )
    local, all_ = "sliding_attention", "full_attention"
    yield Variant(
        "gemma3_text/default",
        "Gemma3ForCausalLM",
        gemma | dict(layer_types=[local, local, all_, local], num_hidden_layers=4),
    )
    yield Variant(
        "gemma3_text/scaled",
        "Gemma3ForCausalLM",
        gemma
        | dict(
            layer_types=[local, all_, local],
            final_logit_softcapping=3.0,
            rope_parameters={
                all_: dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                local: dict(rope_type="default", rope_theta=1e4),
            },
        ),
    )
    yield Variant("olmo2/plain", "Olmo2ForCausalLM", grouped(s))
    yield Variant(
        "olmo2/tied",
        "Olmo2ForCausalLM",
        grouped(s, attention_bias=True, tie_word_embeddings=True),
    )
    phi3 = grouped(s)
    yield Variant(
        "phi3/default",
        "Phi3ForCausalLM",
        phi3 | dict(original_max_position_embeddings=s.T + 9),
    )
    yield Variant(
        "phi3/window",
        "Phi3ForCausalLM",
        phi3
        | dict(
            original_max_position_embeddings=s.T + 9,
            sliding_window=4,
            tie_word_embeddings=True,
        ),
    )
    half = s.H // 2
    for name, original in ("long", s.T - 4), ("short", s.T + 9):
        yield Variant(
            f"phi3/longrope-{name}",
            "Phi3ForCausalLM",
            phi3
            | dict(
                max_position_embeddings=4 * original,
                original_max_position_embeddings=original,
                **rope(
                    "longrope",
                    short_factor=[1.0 + 0.3 * i for i in range(half)],
                    long_factor=[2.0 + 1.7 * i for i in range(half)],
                ),
            ),
            # Past the original length all frequencies change: the cached keys of
            # transformers keep the old ones.
            decode=name == "short",
        )
    yield Variant(
        "phi3/partial",
        "Phi3ForCausalLM",
        phi3
        | dict(hidden_size=s.N * 8, original_max_position_embeddings=s.T + 9)
        | rope("default", partial_rotary_factor=0.5),
    )


def mixtures(s: Shapes) -> Iterator[Variant]:
    """Mixtral, gpt-oss and DeepSeek-V3."""
    mixtral = grouped(s, num_local_experts=s.E, num_experts_per_tok=2)
    yield Variant("mixtral/global", "MixtralForCausalLM", mixtral)
    yield Variant(
        "mixtral/window",
        "MixtralForCausalLM",
        mixtral | dict(sliding_window=4, tie_word_embeddings=True),
    )
    oss = grouped(
        s,
        hidden_size=s.D_free,
        head_dim=8,
        num_local_experts=s.E,
        num_experts_per_tok=2,
        sliding_window=4,
        max_position_embeddings=256,
        swiglu_limit=0.5,  # small enough that many units are clipped
        **rope(
            "yarn",
            factor=4.0,
            beta_fast=32.0,
            beta_slow=1.0,
            truncate=False,
            original_max_position_embeddings=64,
        ),
    )
    yield Variant("gpt_oss/alternating", "GptOssForCausalLM", oss)
    latent = grouped(
        s,
        num_attention_heads=3,
        num_key_value_heads=3,
        hidden_size=3 * s.H + 1,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        moe_intermediate_size=s.F - 4,
        n_routed_experts=s.E,
        n_shared_experts=2,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        q_lora_rank=9,
        kv_lora_rank=10,
        qk_nope_head_dim=s.H + 1,
        qk_rope_head_dim=8,
        v_head_dim=s.H - 1,
        routed_scaling_factor=1.7,
    )
    yield Variant("deepseek_v3/default", "DeepseekV3ForCausalLM", latent)
    yield Variant(
        "deepseek_v3/yarn",
        "DeepseekV3ForCausalLM",
        latent
        | dict(
            max_position_embeddings=256,
            **rope(
                "yarn",
                factor=4.0,
                mscale=1.0,
                mscale_all_dim=0.7,
                beta_fast=32,
                beta_slow=1,
                original_max_position_embeddings=64,
            ),
        ),
    )
    yield Variant(
        "deepseek_v3/no-query-rank",
        "DeepseekV3ForCausalLM",
        latent
        | dict(
            q_lora_rank=None,
            rope_interleave=False,
            norm_topk_prob=False,
            n_group=1,
            topk_group=1,
            tie_word_embeddings=True,
        ),
    )


def encoder_decoders(s: Shapes) -> Iterator[Variant]:
    """T5 and mT5, BART and mBART, and Marian: the Transformer as of 2017."""

    def both(name, architecture, *, left_padding=False, **config):
        return Variant(
            name,
            architecture,
            config,
            kind="encoder-decoder",
            left_padding=left_padding,
        )

    t5 = dict(
        vocab_size=s.V,
        d_model=s.D_free,
        d_kv=s.H + 1,
        d_ff=s.F,
        num_heads=3,
        num_layers=3,
        num_decoder_layers=2,  # generate() of transformers fails with more than above
        relative_attention_num_buckets=8,
        relative_attention_max_distance=10,  # less than the rows
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    yield both("t5/1.0", "T5ForConditionalGeneration", **t5)
    yield both(
        "t5/1.1",
        "T5ForConditionalGeneration",
        **t5,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    yield both(
        "mt5/gated",
        "MT5ForConditionalGeneration",
        **t5,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    bart = dict(
        vocab_size=s.V,
        d_model=3 * s.H,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=s.F,
        decoder_ffn_dim=s.F + 3,
        max_position_embeddings=s.T + 9,
        pad_token_id=1,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    yield both("bart/plain", "BartForConditionalGeneration", **bart)
    yield both(
        "bart/scaled",
        "BartForConditionalGeneration",
        **bart | dict(scale_embedding=True, decoder_layers=3),
    )
    yield both(
        "mbart/scaled", "MBartForConditionalGeneration", **bart, scale_embedding=True
    )
    marian = bart | dict(
        pad_token_id=s.V - 1,
        decoder_start_token_id=s.V - 1,
        eos_token_id=0,
        scale_embedding=True,
        activation_function="relu",
    )
    yield both("marian/2017", "MarianMTModel", **marian)
    yield both(
        "marian/swish", "MarianMTModel", **marian | dict(activation_function="swish")
    )


FAMILIES = (
    encoders,
    classic_decoders,
    llamas,
    later_decoders,
    mixtures,
    encoder_decoders,
)


# Variants without a golden file, which only the live comparison has: the default suite
# has to be quick, and each costs a compilation or two.
LIVE_ONLY = {
    "bert/relu",
    "roberta/pooled",
    "distilbert/untied",
    "albert/pooled",
    "electra/square",
    "deberta-v2/bare",
    "deberta-v2/v3-head",
    "modernbert/plain",
    "gpt2/untied",
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
    "phi3/default",
    "phi3/window",
    "phi3/longrope-short",
    "mixtral/global",
    "deepseek_v3/default",
    "bart/scaled",
    "marian/swish",
}


def variants(shapes: Shapes) -> list[Variant]:
    """Every variant of every family at these sizes."""
    return [variant for build in FAMILIES for variant in build(shapes)]
