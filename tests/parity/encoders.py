"""Tiny encoders as transformers writes them."""

from collections.abc import Iterator

from tests.parity.shapes import Shapes, Variant


def encoders(s: Shapes) -> Iterator[Variant]:
    """BERT and its descendants, with the heads of their pretraining."""
    common = dict(
        vocab_size=s.V,
        hidden_size=3 * s.H,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=s.F,
        max_position_embeddings=s.T + 5,
    )

    def encoder(name, architecture, **config):
        fields = dict(kind="encoder", token_types=config.get("type_vocab_size", 0))
        fields |= dict(decode=False)
        for key in ("left_padding", "two_stream", "token_types", "takes_positions"):
            if key in config:
                fields[key] = config.pop(key)
        return Variant(name, architecture, config, **fields)

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
    yield encoder("xlm-roberta/tied", "XLMRobertaForMaskedLM", **roberta)
    yield encoder("camembert/pooled", "CamembertModel", **roberta, **pooled)
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
    yield encoder(
        "albert/groups",  # layers 0 and 1 of one group, 2 to 4 of another
        "AlbertForMaskedLM",
        **albert | dict(num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2),
    )
    yield encoder("albert/pooled", "AlbertModel", **albert, **pooled)
    electra = common | dict(type_vocab_size=2, embedding_size=s.F - 2)
    yield encoder("electra/discriminator", "ElectraForPreTraining", **electra)
    yield encoder(
        "electra/tanh", "ElectraForPreTraining", **electra, hidden_act="gelu_new"
    )
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
