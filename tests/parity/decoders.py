"""Tiny decoders with one MLP a layer, as transformers writes them."""

from collections.abc import Iterator

from tests.parity.shapes import Shapes, Variant


def classic_decoders(s: Shapes) -> Iterator[Variant]:
    """GPT-2, OPT, GPT-J, GPT-NeoX and BLOOM (whose ALiBi has no other family here)."""
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
    opt = dict(
        vocab_size=s.V,
        hidden_size=3 * s.H,
        num_attention_heads=3,
        num_hidden_layers=2,
        ffn_dim=s.F,
        max_position_embeddings=s.T + 9,
        pad_token_id=1,
    )
    yield Variant("opt/tied", "OPTForCausalLM", opt)
    yield Variant(
        "opt/post",
        "OPTForCausalLM",
        opt
        | dict(
            do_layer_norm_before=False,
            layer_norm_elementwise_affine=False,
            enable_bias=False,
            tie_word_embeddings=False,
        ),
    )
    gptj = dict(vocab_size=s.V, n_embd=3 * 8, n_head=3, n_layer=2, rotary_dim=6)
    yield Variant("gptj/partial", "GPTJForCausalLM", gptj | dict(n_positions=s.T + 9))
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
    """The keys that the decoders since Llama share."""
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
        options = {k: config.pop(k) for k in ("decode", "alone") if k in config}
        return Variant(f"llama/{name}", "LlamaForCausalLM", config, **options)

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
        alone=True,
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
    """Gemma 1 to 3, SmolLM3, OLMo 1 and 2, Falcon, Phi-1 to 3."""
    yield Variant(
        "gemma/tied",
        "GemmaForCausalLM",
        grouped(s, hidden_size=s.D_free, head_dim=s.H + 2),
    )
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
    local_nope = dict(use_sliding_window=True, sliding_window=4)
    yield Variant(
        "smollm3/window",
        "SmolLM3ForCausalLM",
        grouped(s, no_rope_layer_interval=2, **local_nope),
    )
    yield Variant("olmo/plain", "OlmoForCausalLM", grouped(s))
    yield Variant("olmo2/plain", "Olmo2ForCausalLM", grouped(s))
    yield Variant(
        "olmo2/tied",
        "Olmo2ForCausalLM",
        grouped(s, attention_bias=True, tie_word_embeddings=True),
    )
    falcon = dict(
        vocab_size=s.V,
        hidden_size=s.D,
        num_attention_heads=s.N,
        num_hidden_layers=2,
        ffn_hidden_size=s.F,
    )
    yield Variant("falcon/one-key", "FalconForCausalLM", falcon)
    yield Variant(
        "falcon/grouped",
        "FalconForCausalLM",
        falcon | dict(new_decoder_architecture=True, num_kv_heads=s.K, bias=True),
    )
    yield Variant(
        "falcon/one-norm",
        "FalconForCausalLM",
        falcon
        | dict(
            new_decoder_architecture=True,
            num_kv_heads=s.K,
            num_ln_in_parallel_attn=1,
            tie_word_embeddings=False,
        ),
    )
    yield Variant(
        "falcon/sequential",
        "FalconForCausalLM",
        falcon | dict(parallel_attn=False, multi_query=False, bias=True),
    )
    phi = grouped(s, hidden_size=s.N * 8)
    yield Variant("phi/grouped", "PhiForCausalLM", phi)
    yield Variant("phi/normed", "PhiForCausalLM", phi | dict(qk_layernorm=True))
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
            alone=True,
        )
    yield Variant(
        "phi3/partial",
        "Phi3ForCausalLM",
        phi3
        | dict(hidden_size=s.N * 8, original_max_position_embeddings=s.T + 9)
        | rope("default", partial_rotary_factor=0.5),
    )
