"""What a form allows spells its texts, and what an engine writes has the form."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llmjax.config import ModelConfig
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.infer.constraints import Form, Forms, choice, json_schema
from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.request import Request
from llmjax.infer.engine.room import Room
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.language import LanguageModel

pytestmark = pytest.mark.usefixtures("quick_compile")
TEXT = 'the cat sat; {"name": "x", "age": 12}, ["yes", "no", "maybe not"] ' * 9


@functools.cache
def tokenizer():
    return tokenizer_lib.train([TEXT], 300)


@functools.cache
def forms(spare=0):
    size = tokenizer().vocab_size + spare
    return Forms(tokenizer(), size, (tokenizer().eos_id,))


def tokens_of(mask):
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return {int(i) for i in np.flatnonzero(bits)}


@pytest.mark.parametrize("spare", [0, 45])
def test_choices_allow_what_begins_one_of_them(spare):
    """Against the spelling of every token; each text's own tokens are allowed.

    Where only one spelling is left, the library allows the tokenizer's own alone.
    """
    texts = ["yes", "yes, the cat", 'a"b\\n\n', "ä/ü"]
    whole, ids = [t.encode() for t in texts], range(tokenizer().vocab_size)
    spelled = {i: tokenizer().decode([i]).encode() for i in ids}
    broken = "\ufffd".encode()  # a part of a letter
    for text in texts:
        grammar, said = forms(spare).constraint(choice(texts)), b""
        for token in tokenizer().encode(text).tolist():
            allowed = tokens_of(grammar.allowed())
            assert token in allowed
            assert (tokenizer().eos_id in allowed) == (said in whole)
            for i in allowed - {tokenizer().eos_id}:
                fits = any(t.startswith(said + spelled[i]) for t in whole)
                assert fits or broken in spelled[i], (said, spelled[i])
            grammar.advance(token)
            said += spelled[token]
            if broken in said:
                break
        else:
            assert grammar.complete and grammar.ended == (text != "yes")


@functools.cache
def engine():
    size = tokenizer().vocab_size + 45
    cfg = ModelConfig(vocab_size=size, d_model=16, d_ff=32, num_layers=1)
    model, rng = LanguageModel(cfg), np.random.default_rng(3)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), {"tokens": jnp.ones((1, 4), int)}
    )
    params = jax.tree.map(
        lambda x: jnp.array(rng.normal(0.0, 0.3, x.shape), x.dtype),
        nn.unbox(shapes["params"]),
    )
    return Engine(model, params, Room(rows=4, max_length=256, page=16, chunk=16))


def written(form, count=6, max_new_tokens=200):
    """Texts of a form by a model that knows nothing, and why they ended."""
    ends = (tokenizer().eos_id,)

    def request(seed):
        bound = forms(45).constraint(form)
        return Request(
            [1, 2], max_new_tokens, Sampling(), ends, seed=seed, constraint=bound
        )

    answers = engine().run([request(seed) for seed in range(count)])
    return [(tokenizer().decode(a.ids), a.finished) for a in answers]


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def test_what_is_written_has_the_form():
    for text, why in written(json_schema(PERSON)):
        assert why == "stop"
        person = json.loads(text)
        assert set(person) == {"name", "age", "tags"} and 0 <= person["age"] <= 150
        assert len(person["name"]) <= 8 and {*person["tags"]} <= {"a", "b"}
        assert len(person["tags"]) <= 3 and not re.search(r"[ \n\t\r]{9}", text)
    for text, why in written(Form("regex", r"[a-c]{2,4}(-\d\d)?")):
        assert why == "stop" and re.fullmatch(r"[a-c]{2,4}(-\d\d)?", text)
    texts = ["yes", "no", "maybe not"]
    assert {text for text, _ in written(choice(texts))} <= {*texts}
    lark = 'start: pair+\npair: "(" /[xy]/ ")"'
    for text, _ in written(Form("lark", lark), max_new_tokens=120):
        assert re.fullmatch(r"(\([xy]\))+", text)


def test_a_text_that_is_cut_says_so_and_others_go_on():
    (cut,) = written(Form("regex", "a{60,}"), count=1, max_new_tokens=5)
    assert cut[1] == "length"
    free = Request([5, 6], 12, Sampling(), seed=4)
    (alone,) = engine().run([free])
    bound = Request(
        [1, 2], 12, Sampling(), constraint=forms(45).constraint(choice(["no"]))
    )
    both = engine().run([bound, free])
    assert both[1].ids.tolist() == alone.ids.tolist()
    assert tokenizer().decode(both[0].ids) == "no"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form("regex", "[a-"), "(?s)regex .*unclosed character class"),
        (
            json_schema({"minLength": 5, "maxLength": 2, "type": "string"}),
            "Unsatisfiable",
        ),
        (json_schema({"type": "wat"}), "Invalid type: wat"),
        (json_schema(False), "accepts nothing"),
        (json_schema([1]), "is no object"),
        (json_schema({"$ref": "http://x.org/y"}), "not present"),
        (Form("json_schema", "{"), "is no JSON"),
        (Form("json_schema", "[" * 99_999), "is no JSON"),
        (choice([]), "no list of texts"),
        (choice(["a", ""]), "is no text, or an empty one"),
        (Form("choice", '["a", 3]'), "3 is no text"),
        (Form("lark", "start: x"), "unknown name"),
    ],
)
def test_a_form_without_texts_is_refused(form, message):
    with pytest.raises(ValueError, match=message):
        forms().constraint(form)
