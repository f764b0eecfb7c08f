"""Tiny classifiers of texts and of tokens as transformers writes them."""

import dataclasses
from collections.abc import Iterator

from tests.parity.decoders import grouped
from tests.parity.shapes import Shapes, Variant

CLASSES = 3
TEXTS_ALONE = {"olmo2", "opt", "gptj", "gemma3_text"}  # in transformers
POOLED = "modernbert/classes-mean"
SCORES = {  # decoders whose last token is scored -> class of transformers
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
    "olmo2": "Olmo2",
    "phi3": "Phi3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "mixtral": "Mixtral",
}


def classifiers(s: Shapes) -> Iterator[Variant]:
    """Each form of head, and decoders of every way of naming their body."""
    for variant in (*encoders(s), *decoders(s)):
        yield variant
        if variant.family not in TEXTS_ALONE and variant.name != POOLED:
            yield of_tokens(variant)


def of_tokens(variant: Variant) -> Variant:
    """The same body under a head that scores each token."""
    architecture = variant.architecture.replace("Sequence", "Token")
    name = variant.name.replace("classes", "tags")
    return dataclasses.replace(variant, name=name, architecture=architecture)


def encoders(s: Shapes) -> Iterator[Variant]:
    common = dict(
        vocab_size=s.V,
        hidden_size=3 * s.H,
        num_attention_heads=3,
        num_hidden_layers=1,
        intermediate_size=s.F,
        max_position_embeddings=s.T + 5,
        num_labels=CLASSES,
    )

    def encoder(name, prefix, config, **fields):
        architecture = f"{prefix}ForSequenceClassification"
        # the first of a row is pooled, be it padding
        fields = dict(kind="encoder", left_padding=False, decode=False) | fields
        return Variant(f"{name}/classes", architecture, config, **fields)

    bert = common | dict(type_vocab_size=2)
    yield encoder("bert", "Bert", bert, token_types=2)
    roberta = common | dict(type_vocab_size=1, pad_token_id=1)
    for name, prefix in (
        ("roberta", "Roberta"),
        ("xlm-roberta", "XLMRoberta"),
        ("camembert", "Camembert"),
    ):
        yield encoder(name, prefix, roberta, takes_positions=False)
    distilbert = dict(
        vocab_size=s.V,
        dim=3 * s.H,
        n_heads=3,
        n_layers=1,
        hidden_dim=s.F,
        max_position_embeddings=s.T + 5,
        num_labels=CLASSES,
    )
    yield encoder("distilbert", "DistilBert", distilbert)
    small = bert | dict(embedding_size=s.F - 2)
    yield encoder("albert", "Albert", small, token_types=2)
    yield encoder("electra", "Electra", small, token_types=2)
    deberta = common | dict(
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=6,
        max_relative_positions=-1,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
    )
    yield encoder("deberta-v2", "DebertaV2", deberta)
    modern = common | dict(
        num_hidden_layers=2,
        local_attention=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    )
    yield encoder("modernbert", "ModernBert", modern)
    yield Variant(
        "modernbert/classes-mean",
        "ModernBertForSequenceClassification",
        modern | dict(classifier_pooling="mean", classifier_bias=True, norm_bias=True),
        kind="encoder",
        decode=False,
    )


def decoders(s: Shapes) -> Iterator[Variant]:
    one = dict(num_labels=CLASSES, num_hidden_layers=1)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)

    def decoder(name, prefix, config, **fields):
        architecture = f"{prefix}ForSequenceClassification"
        # it writes no text
        return Variant(f"{name}/classes", architecture, config, decode=False, **fields)

    yield decoder("llama", "Llama", grouped(s, **one))
    for name, prefix in SCORES.items():
        window = dict(sliding_window=4) if name == "gemma2" else {}
        original = s.T + 9
        long = dict(original_max_position_embeddings=original) if name == "phi3" else {}
        yield decoder(name, prefix, grouped(s, **one, **window, **long))
    yield decoder(
        "gemma3_text",
        "Gemma3Text",
        grouped(s, **one, sliding_window=4, layer_types=["sliding_attention"]),
    )
    gpt2 = dict(vocab_size=s.V, n_embd=3 * s.H, n_head=3, n_positions=s.T + 9, **ids)
    yield decoder("gpt2", "GPT2", gpt2 | dict(n_layer=1, num_labels=CLASSES))
    opt = dict(
        vocab_size=s.V,
        hidden_size=3 * s.H,
        num_attention_heads=3,
        ffn_dim=s.F,
        max_position_embeddings=s.T + 9,
        pad_token_id=1,
    )
    yield decoder("opt", "OPT", opt | one)
    neox = dict(
        vocab_size=s.V,
        hidden_size=3 * 8,
        num_attention_heads=3,
        intermediate_size=s.F,
        max_position_embeddings=s.T + 9,
        **ids,
    )
    yield decoder("gpt_neox", "GPTNeoX", neox | one)
    gptj = dict(vocab_size=s.V, n_embd=3 * 8, n_head=3, rotary_dim=6, **ids)
    yield decoder(
        "gptj", "GPTJ", gptj | dict(n_positions=s.T + 9, n_layer=1, num_labels=CLASSES)
    )
    bloom = dict(vocab_size=s.V, hidden_size=3 * s.H, n_head=3, n_layer=1, **ids)
    yield decoder("bloom", "Bloom", bloom | dict(num_labels=CLASSES))
    falcon = dict(
        vocab_size=s.V,
        hidden_size=s.D,
        num_attention_heads=s.N,
        ffn_hidden_size=s.F,
        **ids,
    )
    yield decoder("falcon", "Falcon", falcon | one)
    phi = grouped(s, hidden_size=s.N * 8, **one)
    yield decoder("phi", "Phi", phi)
