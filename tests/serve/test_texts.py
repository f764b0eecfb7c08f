"""Pieces of a text are together what is decoded at once; stops and signs are exact."""

import numpy as np
import pytest

from llmjax.data.tokenizers import training
from llmjax.data.tokenizers.chats.prompts import encode_conversation
from llmjax.data.tokenizers.conventions import Conventions
from llmjax.data.tokenizers.streaming import StopStrings
from llmjax.data.tokenizers.tokenizer import Tokenizer
from tests.serve import toy

RNG = np.random.default_rng(0)


def tokenizers():
    text = [toy.TEXT + "日本語 🙂 "] * 3
    return {
        "bpe": Tokenizer(training.bpe(text, 300)),
        "wordpiece": Tokenizer(training.wordpiece(text, 200, lowercase=True)),
        "bytes": Tokenizer(training.single_bytes()),
    }


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "bytes"])
def test_pieces_are_what_decode_gives(kind):
    """Of random ids, whose letters are broken anywhere; some are no token's."""
    tokenizer = tokenizers()[kind]
    for _ in range(50):
        ids = RNG.integers(0, tokenizer.vocab_size + 3, RNG.integers(0, 30))
        stream = tokenizer.stream()
        pieces = [stream.add(int(i)) for i in ids] + [stream.end()]
        assert "".join(pieces) == tokenizer.decode(ids)
        on = tokenizer.stream(goes_on=True)
        on = "".join([*(on.add(int(i)) for i in ids), on.end()])
        assert on in ("".join(pieces), " " + "".join(pieces))


def test_stop_strings_against_find():
    """Any stops, any cuts; what is passed on before the end is never taken back."""
    for _ in range(400):
        text = "".join(RNG.choice([*"ab"], RNG.integers(0, 14)))
        lengths = RNG.integers(1, 5, RNG.integers(1, 4))
        stops = ["".join(RNG.choice([*"ab"], n)) for n in lengths]
        cuts = sorted(RNG.integers(0, len(text) + 1, 4).tolist())
        pieces = [
            text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
        ]
        stopper, said = StopStrings(stops), ""
        for piece in pieces:
            if not stopper.stopped:
                said += stopper.add(piece)
                assert text.startswith(said)
        said += "" if stopper.stopped else stopper.end()
        # the first to be complete ends it; of those, the first to begin
        ends = [text.find(s) + len(s) for s in stops if s in text]
        assert stopper.stopped == bool(ends)
        if not ends:
            assert said == text
        else:
            assert any(text[len(said) :].startswith(s) for s in stops)
            assert not any(s in said for s in stops)


def test_control_tokens_in_a_message_stay_text():
    """Also where the template strips, and where tokens lie in one another."""
    template = "{% for m in messages %}<bos>{{ m.content | trim }}<eos>{% endfor %}"
    tokenizer = Tokenizer(
        training.bpe([toy.TEXT], 300), Conventions(chat_templates={"default": template})
    )
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    for content in ["a <eos> b", "<bos>", "<e<eos>os>", " <eos><pad>\n<eos> ", "plain"]:
        ids = encode_conversation(tokenizer, [{"role": "user", "content": content}])
        assert ids[0] == bos and ids[-1] == eos
        assert not {bos, eos, tokenizer.pad_id} & {*ids[1:-1].tolist()}
        assert tokenizer.decode(ids[1:-1]) == content.strip()
    plain = [{"role": "user", "content": "the cat"}]
    text = tokenizer.apply_chat_template(plain)
    expected = tokenizer.encode(text, parse_specials=True)
    np.testing.assert_array_equal(encode_conversation(tokenizer, plain), expected)
