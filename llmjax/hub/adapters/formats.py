"""The formats of all methods whose maths is of plain matrices, in one table."""

from llmjax.config import (
    C3A,
    HRA,
    OFT,
    AdaLoRA,
    DeLoRA,
    HiRA,
    LoHa,
    LoKr,
    MiSS,
    PiSSA,
    RoAd,
    SHiRA,
    VeRA,
)
from llmjax.hub.adapters.format import Format
from llmjax.hub.adapters.special import (
    AdaLoRAFormat,
    DeLoRAFormat,
    LoKrFormat,
    MiSSFormat,
    OFTFormat,
    PiSSAFormat,
    SHiRAFormat,
    VeRAFormat,
)

_RANK = {"rank": "r"}
_PAIR_OF_LOKR = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
FORMATS = {
    format_.config: format_
    for format_ in (
        AdaLoRAFormat(
            "ADALORA",
            AdaLoRA,
            {
                "rank": "init_r",
                "target_rank": "target_r",
                "alpha": "lora_alpha",
                "dropout": "lora_dropout",
                "initial_steps": "tinit",
                "final_steps": "tfinal",
                "interval": "deltaT",
                "beta1": "beta1",
                "beta2": "beta2",
                "orthogonality": "orth_reg_weight",
            },
            {"a": "lora_A.T", "e": "lora_E", "b": "lora_B.T"},
            {"bias": "none"},
            ("r", "total_step", "rank_pattern"),
            oriented=True,
        ),
        PiSSAFormat(
            "LORA",
            PiSSA,
            {},
            {"a": "lora_A.weight.T", "b": "lora_B.weight.T"},
            {"bias": "none"},
            oriented=True,
        ),
        VeRAFormat(
            "VERA",
            VeRA,
            {**_RANK, "dropout": "vera_dropout", "initial": "d_initial"},
            {"inner": "vera_lambda_d", "outer": "vera_lambda_b"},
            {"bias": "none", "save_projection": True},
            ("projection_prng_key",),
            oriented=True,
        ),
        MiSSFormat(
            "MISS",
            MiSS,
            {**_RANK, "width": "mini_r"},
            {"block": "miss_block"},
            {"bias": "none"},
            ("miss_dropout",),
        ),
        OFTFormat(
            "OFT",
            OFT,
            {"block_size": "oft_block_size", "share": "block_share"},
            {"upper": "oft_R.weight"},
            {"bias": "none", "r": 0, "coft": False},
            ("eps", "module_dropout", "use_cayley_neumann", "num_cayley_neumann_terms"),
            oriented=True,
        ),
        Format("HRA", HRA, _RANK, {"u": "hra_u"}, {"bias": "none", "apply_GS": False}),
        Format(
            "HIRA",
            HiRA,
            {**_RANK, "dropout": "hira_dropout"},
            {"a": "hira_A.T", "b": "hira_B.T"},
            oriented=True,
        ),
        SHiRAFormat(
            "SHIRA",
            SHiRA,
            _RANK,
            {"values": "shira_weight", "places": "shira_indices"},
            {"mask_type": "random"},
            ("random_seed",),
        ),
        Format(
            "LOHA",
            LoHa,
            {**_RANK, "alpha": "alpha"},
            {
                "a1": "hada_w1_b.T",
                "b1": "hada_w1_a.T",
                "a2": "hada_w2_b.T",
                "b2": "hada_w2_a.T",
            },
            silent=("rank_dropout", "module_dropout", "use_effective_conv2d"),
        ),
        LoKrFormat(
            "LOKR",
            LoKr,
            {**_RANK, "alpha": "alpha", "decompose_both": "decompose_both"},
            {name: f"lokr_{name}" for name in _PAIR_OF_LOKR},
            silent=(
                "decompose_factor",
                "rank_dropout",
                "module_dropout",
                "rank_dropout_scale",
                "use_effective_conv2d",
            ),
        ),
        DeLoRAFormat(
            "DELORA",
            DeLoRA,
            {**_RANK, "bound": "delora_lambda", "dropout": "module_dropout"},
            {"a": "delora_A.T", "b": "delora_B.T", "bound": "delora_lambda"},
            {"bias": "none"},
        ),
        Format(
            "ROAD",
            RoAd,
            {"group_size": "group_size", "variant": "variant"},
            {"theta": "road_theta", "alpha": "road_alpha"},
        ),
        Format(
            "C3A",
            C3A,
            {"block_size": "block_size"},
            {"kernel": "c3a_kernel"},
            {"bias": "none"},
        ),
    )
}
# peft_type -> the format of files that are read so; those of LoRA are LoRA's
KINDS = {f.kind: f for f in FORMATS.values() if f.kind != "LORA"}
