"""Hard negatives: which documents are taken, by hand."""

import numpy as np
import pytest

from llmjax.infer.mining import Choice, mine, nearest


def vectors(n, D=6, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [4, 7, 100])
def test_the_nearest_are_found_block_by_block(block):
    queries, docs = vectors(300, seed=1), vectors(30)
    found = [
        np.concatenate(x) for x in zip(*nearest(queries, docs, 9, block), strict=True)
    ]
    cosine = queries @ docs.T
    wanted = np.argsort(-cosine, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(found[1], wanted)
    np.testing.assert_allclose(
        found[0], np.take_along_axis(cosine, wanted, axis=1), atol=1e-6
    )


def chosen(choice, start=0, block=7):
    queries, docs = vectors(12, seed=1), vectors(30)
    belonging = [frozenset({k, k + 12}) for k in range(12)]
    return [
        *mine(queries, docs, [*range(12)], belonging, choice, start, block)
    ], queries @ docs.T


@pytest.mark.parametrize(
    "choice",
    [
        Choice(3, 2, 9),
        Choice(3, 1, 30, margin=0.3),
        Choice(40, 1, 30, relative_margin=0.2),
        Choice(2, 30, 50),
    ],
)
def test_ranks_and_margins(choice):
    found, cosine = chosen(choice)
    for k, own in enumerate(found):
        others = [d for d in np.argsort(-cosine[k]) if d not in (k, k + 12)]
        limit = cosine[k, k] - choice.margin
        limit = min(limit, cosine[k, k] - abs(cosine[k, k]) * choice.relative_margin)
        wanted = [
            d
            for d in others[choice.first - 1 : choice.last]
            if not (choice.margin or choice.relative_margin) or cosine[k, d] <= limit
        ]
        assert own == wanted[: choice.count]


def test_random_negatives_are_a_function_of_seed_and_row():
    choice = Choice(3, 1, 20, sampling="random", seed=4)
    found, _ = chosen(choice)
    assert found == chosen(choice, block=100)[0]
    assert found != chosen(Choice(3, 1, 20, sampling="random", seed=5))[0]
    top, _ = chosen(Choice(20, 1, 20))
    assert all(set(a) < set(b) for a, b in zip(found, top, strict=True))
    assert found[2:] != top[2:] and len({*map(tuple, found)}) > 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first": 0}, "the ranks 0 to 50 are none; accepted: from 1 on"),
        ({"first": 60}, "the ranks 60 to 50 are none"),
        ({"relative_margin": 1.0}, "relative margin of 1.0; accepted: 1 or more, and"),
    ],
)
def test_choices_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        Choice(**fields)
