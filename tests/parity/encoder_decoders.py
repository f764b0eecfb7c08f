"""Tiny encoder-decoders, as transformers writes them."""

from collections.abc import Iterator

from tests.parity.shapes import Shapes, Variant

ALONE: dict = dict(decode=False, left_padding=False, takes_positions=False)
SCALED: dict = dict(scale_embedding=True, activation_function="relu")


def encoder_decoders(s: Shapes) -> Iterator[Variant]:
    """T5 and its kin, BART and its: Marian is the Transformer as of 2017."""

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
    # with a head of its own transformers 5 scales the published umT5, 4 did not
    yield both("umt5/tied", "UMT5ForConditionalGeneration", **t5)
    encoder = t5 | dict(is_encoder_decoder=False)
    yield Variant("t5/encoder", "T5EncoderModel", encoder, kind="encoder", **ALONE)
    yield Variant("umt5/encoder", "UMT5EncoderModel", encoder, kind="encoder", **ALONE)
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
    yield both("pegasus/scaled", "PegasusForConditionalGeneration", **bart | SCALED)
    yield both("m2m_100/scaled", "M2M100ForConditionalGeneration", **bart | SCALED)
    marian = bart | dict(
        pad_token_id=s.V - 1,
        decoder_start_token_id=s.V - 1,
        eos_token_id=0,
        scale_embedding=True,
        activation_function="relu",
    )
    bare = dict(kind="encoder-decoder", left_padding=False, decode=False)
    yield Variant("marian/bare", "MarianModel", marian, **bare)
    yield both("marian/2017", "MarianMTModel", **marian)
    yield both(
        "marian/swish", "MarianMTModel", **marian | dict(activation_function="swish")
    )
