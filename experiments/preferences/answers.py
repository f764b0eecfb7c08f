"""Answers that a model writes to openings, what they are worth, and pairs of them."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments.language_models import Source
from llmjax.data.files.slices import Row
from llmjax.infer.generate import generate
from llmjax.infer.predict import Predictor
from llmjax.infer.scoring import Scorer
from llmjax.tasks.registry import make_task
from llmjax.train.checkpoints import reading
from llmjax.train.checkpoints.weights import load_tokenizer

# texts -> how good each is, float64 [n]
Reward = Callable[[Sequence[str]], np.ndarray]
TOGETHER = 32  # answers that are drawn together
_SENTENCE = re.compile(r".*?[.!?](?=\s|$)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model wrote behind an opening.

    Attributes:
      opening: the number of its opening.
      text: its first sentence, or all of it where none ends.
      ended: whether a sentence ends in it.
      tokens: that were drawn.
      ids: these, with the end of the text where it was drawn.
    """

    opening: int
    text: str
    ended: bool
    tokens: int
    ids: list[int]


def draw(
    source: Source,
    openings: Sequence[str],
    file: epath.Path,
    *,
    draws: int,
    new_tokens: int,
    seed: int,
) -> list[Answer]:
    """Answers to each opening; those that `file` has are not drawn again.

    A draw is a function of (seed, its number), so that a killed command goes on.
    """
    done: list[Answer] = []
    if file.exists():
        lines = file.read_text().splitlines()
        done = [Answer(**json.loads(line)) for line in lines]
    total = len(openings) * draws
    prompts = [source.with_beginning(source.tokenizer.encode(o)) for o in openings]
    while len(done) < total:
        numbers = np.arange(len(done), min(len(done) + TOGETHER, total))
        full = np.resize(numbers, TOGETHER)  # one number of rows is compiled
        rows = generate(
            source.model,
            source.params,
            [prompts[n // draws] for n in full.tolist()],
            max_new_tokens=new_tokens,
            rng=seed,
            rows=full.tolist(),
            stop_tokens=source.stop_tokens,
            pad_id=source.pad_id,
        )
        for number, ids in zip(numbers.tolist(), rows, strict=False):
            text = source.tokenizer.decode(ids)
            sentence = _SENTENCE.match(text)
            ends = [] if len(ids) == new_tokens else [source.stop_tokens[0]]
            done.append(
                Answer(
                    number // draws,
                    sentence.group() if sentence else text,
                    bool(sentence),
                    len(ids),
                    [*ids.tolist(), *ends],
                )
            )
        part = file.with_suffix(".part")
        part.write_text("".join(json.dumps(vars(a)) + "\n" for a in done))
        part.replace(file)
    return done


def pairs(
    openings: Sequence[str], answers: Sequence[Answer], rewards: np.ndarray
) -> list[dict[str, str]]:
    """Of each opening the best answer and the worst one, of those that end a sentence
    or, where fewer than two do, of all.

    Raises:
      ValueError: no opening has two answers.
    """
    rows = []
    for number, opening in enumerate(openings):
        texts = {
            answer.text: (answer.ended, rewards[k])
            for k, answer in enumerate(answers)
            if answer.opening == number and answer.text.strip(" .!?\n")
        }
        ended = [text for text, (ends, _) in texts.items() if ends]
        some = sorted(
            ended if len(ended) > 1 else texts, key=lambda text: texts[text][1]
        )
        if len(some) > 1:
            rows.append({"prompt": opening, "chosen": some[-1], "rejected": some[0]})
    if not rows:
        raise ValueError(
            "no opening got two different answers; another --model may write more"
        )
    return rows


def kl(source: Source, first: Source, openings: Sequence[str], answers: Any) -> float:
    """The divergence of a model from the first one in nats an answer: the mean of the
    log ratio over what it drew."""
    asked = []
    for answer in answers:
        if answer.ids:
            opening = source.tokenizer.encode(openings[answer.opening])
            asked.append((source.with_beginning(opening).tolist(), answer.ids))
    longest = max(len(a) + len(b) for a, b in asked)
    totals = []
    for one in (source, first):
        scorer = Scorer(one.model, one.params, batch_size=TOGETHER, max_length=longest)
        totals.append(np.array([s.log_likelihood for s in scorer(asked)]))
    return float((totals[0] - totals[1]).mean())


def classifier(folder: epath.Path, label: str) -> Reward:
    """The probability of a label by a run that classifies texts."""
    _, config, params = reading.read(folder)
    task = make_task(config, load_tokenizer(folder, config))
    predictor = Predictor(config, task, params, TOGETHER)

    def reward(texts: Sequence[str]) -> np.ndarray:
        rows = [Row({"text": text}, lambda: "an answer") for text in texts]
        found = predictor(rows, {"text": "text"})
        return np.array([answer["probabilities"][label] for answer in found])

    return reward
