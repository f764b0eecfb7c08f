r"""JSON of generated schemas, written by a model that knows nothing, is valid.

    python -m tests.proofs.structured [--schemas=1000] [--quick]

Each schema (objects, arrays, bounds, enums, nested) is drawn from a seed; a small model
with random weights writes a text of it, and `jsonschema` judges: valid, or cut by the
limit of tokens and said so. Then the masks' share of an engine's time, with a model of
`--width`: the same texts with and without a form, in turns.
"""

import argparse
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import jsonschema  # type: ignore[import-untyped]
import numpy as np
from flax import linen as nn

from llmjax.config import ModelConfig
from llmjax.data.tokenizers import tokenizer as tokenizer_lib
from llmjax.infer.constraints import Forms, json_schema
from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.request import Request
from llmjax.infer.engine.room import Room
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.language import LanguageModel

WORDS = ["name", "age", "city", "tags", "ok", "size", "kind", "note"]
TEXT = json.dumps([{w: [w, 12, True, None, -0.5]} for w in WORDS]) * 5
ROOM = Room(rows=8, max_length=416, page=104, chunk=16)  # few shapes to compile


def schema(rng: np.random.Generator, depth: int = 0) -> dict[str, Any]:
    """A JSON Schema that some text satisfies."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "array"]
    kind = rng.choice([*kinds, "object", "object", "anyOf"] if depth < 3 else kinds[:6])
    low = int(rng.integers(-50, 50))
    if kind == "string":
        least = int(rng.integers(0, 4))
        return {"type": "string", "minLength": least, "maxLength": least + 6}
    if kind in ("integer", "number"):
        return {"type": kind, "minimum": low, "maximum": low + int(rng.integers(1, 99))}
    if kind == "enum":
        return {"enum": [*rng.choice(WORDS, 3).tolist(), low]}
    if kind == "array":
        items = schema(rng, depth + 1)
        return {"type": "array", "items": items, "minItems": 1, "maxItems": 2}
    if kind == "anyOf":
        return {"anyOf": [schema(rng, depth + 1), schema(rng, depth + 1)]}
    if kind == "object":
        names = rng.choice(WORDS, int(rng.integers(1, 4)), replace=False).tolist()
        return {
            "type": "object",
            "properties": {name: schema(rng, depth + 1) for name in names},
            "required": names[: int(rng.integers(0, len(names) + 1))],
            "additionalProperties": False,
        }
    return {"type": str(kind)}


def make_model(vocab_size: int, width: int) -> tuple[LanguageModel, Any]:
    """A decoder with random weights."""
    cfg = ModelConfig(
        vocab_size=vocab_size, d_model=width, d_ff=4 * width, num_layers=2
    )
    model, rng = LanguageModel(cfg), np.random.default_rng(3)
    batch = {"tokens": jnp.ones((1, 4), int)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    params = jax.tree.map(
        lambda x: jnp.array(rng.normal(0.0, 0.1, x.shape), x.dtype), nn.unbox(shapes)
    )
    return model, params


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schemas", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    count, width = (40, 32) if args.quick else (args.schemas, args.width)
    tokenizer = tokenizer_lib.train([TEXT], 400)
    ends, size = (tokenizer.eos_id,), tokenizer.vocab_size
    forms, rng = Forms(tokenizer, size, ends), np.random.default_rng(0)
    schemas = [schema(rng) for _ in range(count)]

    def requests(bound: bool, chosen: list[Any], most: int) -> list[Request]:
        return [
            Request(
                [1, 2],
                most,
                Sampling(),
                ends if bound else (),
                seed=n,
                constraint=forms.constraint(json_schema(s)) if bound else None,
            )
            for n, s in enumerate(chosen)
        ]

    engine = Engine(*make_model(size, 32), ROOM)
    start = time.monotonic()
    answers = engine.run(requests(True, schemas, 400))
    seconds = time.monotonic() - start
    valid = cut = 0
    for answer, wanted in zip(answers, schemas, strict=True):
        if answer.finished == "length":
            cut += 1
            continue
        text = tokenizer.decode(answer.ids)
        jsonschema.validate(json.loads(text), wanted)
        valid += 1
    written = sum(len(answer.tokens) for answer in answers)
    print(
        f"{count} schemas: {valid} valid, {cut} cut and said so, {count - valid - cut} "
        f"wrong; {written} tokens in {seconds:.1f} s"
    )
    assert valid + cut == count and valid > 0.9 * count

    engine = Engine(*make_model(size, width), ROOM)
    ratios = []
    # a form that goes on, so that both write as many tokens
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 999}
    for turn in range(3 if args.quick else 7):
        took = []
        for bound in (False, True):
            batch = requests(bound, [endless] * 8, 128)
            start = time.monotonic()
            done = engine.run(batch)
            took.append(time.monotonic() - start)
            assert all(len(answer.tokens) == 128 for answer in done)
        if turn:  # the first compiles
            ratios.append(took[1] / took[0])
    print(
        f"width {width}: a form takes {statistics.median(ratios):.2f} times as long "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
