"""Tiny mixtures of experts, as transformers writes them."""

from collections.abc import Iterator

from tests.parity.decoders import grouped, rope
from tests.parity.shapes import Shapes, Variant


def mixtures(s: Shapes) -> Iterator[Variant]:
    """Mixtral, Qwen 2 and 3, gpt-oss and DeepSeek-V3."""
    mixtral = grouped(s, num_local_experts=s.E, num_experts_per_tok=2)
    yield Variant("mixtral/global", "MixtralForCausalLM", mixtral)
    yield Variant(
        "mixtral/window",
        "MixtralForCausalLM",
        mixtral | dict(sliding_window=4, tie_word_embeddings=True),
    )
    qwen = grouped(
        s,
        num_experts=s.E,
        num_experts_per_tok=2,
        moe_intermediate_size=s.F - 4,
        mlp_only_layers=[1],
    )
    yield Variant(
        "qwen2_moe/gated",
        "Qwen2MoeForCausalLM",
        qwen | dict(shared_expert_intermediate_size=s.F - 2),
    )
    yield Variant(
        "qwen3_moe/window",
        "Qwen3MoeForCausalLM",
        qwen
        | dict(
            head_dim=s.H + 2,
            norm_topk_prob=True,
            use_sliding_window=True,
            sliding_window=4,
        ),
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
        "deepseek_v3/epsilon",  # the latents' norms have one of their own
        "DeepseekV3ForCausalLM",
        latent | dict(rms_norm_eps=0.03),
    )
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
