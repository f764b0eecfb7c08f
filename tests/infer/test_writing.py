"""Texts for what is asked: in order, whatever stands beside it, within positions."""

import dataclasses

import numpy as np
import pytest

from llmjax.config import DataConfig, Decoding, Learned, RunConfig, TextToText
from llmjax.data.files.slices import Row
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.infer.beam import beam_search
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.infer.writing import Writer
from llmjax.tasks.registry import make_task

pytestmark = pytest.mark.usefixtures("quick_compile")
NEW = 5
TEXTS = ["dcba", "a", "bbcc aa dd bb", "cab", "ddddd"]


class Vocabulary(PlainVocabulary):
    """A token for each letter."""

    def encode(self, text):
        return np.array([ord(c) % 30 + 3 for c in text], np.int32)

    def decode(self, ids):
        return " ".join(str(int(i)) for i in ids)


@pytest.fixture(scope="module")
def make(tiny, random_params):
    """(decoding, batch size) -> a writer; its weights are always the same."""

    def writer(batch_size, two=True, positions=None, **decoding):
        kind = "encoder_decoder" if two else "decoder"
        positions = positions or tiny.positions
        cfg = dataclasses.replace(tiny, architecture=kind, positions=positions)
        task = TextToText(decoding=Decoding(**{"max_new_tokens": NEW} | decoding))
        longest = 12 if two else None
        data = DataConfig(packing="pad", seq_len=12, encoder_seq_len=longest)
        bound = make_task(RunConfig(cfg, task, data), Vocabulary(40))
        model = bound.model(cfg, bound.run.layout)
        batch = {"tokens": np.ones((1, 2), np.int32)}
        if two:
            batch["encoder_tokens"] = batch["tokens"]
        return Writer(bound, model, random_params(model, batch), batch_size)

    return writer


def answers(writer, texts=TEXTS):
    rows = [Row({"text": text}, f"row {k}".__str__) for k, text in enumerate(texts)]
    return writer(rows, {"source": "text"})


@pytest.mark.parametrize("two", [True, False])
def test_each_text_is_that_of_its_prompt_alone(make, two):
    writer = make(2, two)
    task = writer.task
    written = answers(writer)
    for text, row in zip(TEXTS, written, strict=True):
        prompt, encoder, _ = task.asked_of({"source": text})
        (ids,) = generate(
            writer._model,
            writer._params,
            [prompt],
            max_new_tokens=NEW,
            sampling=Sampling(temperature=0.0),
            stop_tokens=task.stop_tokens,
            encoder_tokens=None if encoder is None else [encoder],
        )
        assert row == {"prediction": task.text(ids)}
    assert writer.cut == 1  # the longest of 13 letters


def test_a_search_gives_its_best_text_and_score(make):
    writer = make(3, beams=3, length_penalty=0.5, early_stopping="always")
    (row,) = answers(writer, TEXTS[:1])
    prompt, encoder, _ = writer.task.asked_of({"source": TEXTS[0]})
    ((best,),) = beam_search(
        writer._model,
        writer._params,
        [prompt],
        beams=3,
        max_new_tokens=NEW,
        length_penalty=0.5,
        early_stopping="always",
        stop_tokens=writer.task.stop_tokens,
        encoder_tokens=[encoder],
    )
    assert row["prediction"] == writer.task.text(best.tokens)
    assert row["score"] == pytest.approx(best.score, abs=1e-5)


def test_a_prompt_leaves_room_for_what_is_written(make):
    """Of learned positions half are for the text, if it may be as long."""
    writer = make(2, two=False, positions=Learned(12))
    assert (writer._new, writer._room) == (5, 8)
    assert len(answers(writer)) == 5 and writer.cut == 1
    short = make(2, two=False, positions=Learned(12), max_new_tokens=99)
    assert (short._new, short._room) == (6, 7)


def test_a_row_that_asks_nothing_is_named(make):
    with pytest.raises(ValueError, match="row 1: the text is empty; take the row out"):
        answers(make(2), ["a", " "])
