"""tiktoken's ranks give tiktoken's ids."""

import base64
import itertools
import json
import pathlib

import pytest

from llmjax.data.tokenizers import tokenizer
from llmjax.data.tokenizers.tiktoken_ranks import ENCODINGS

RANKS = pathlib.Path(__file__).parent / "fixtures/ranks.tiktoken"
# ids by tiktoken 0.14 with these ranks, for each encoding's own pattern
GOLDEN = json.loads(RANKS.with_suffix(".json").read_text())


@pytest.mark.parametrize("name", GOLDEN["ids"])
def test_the_ids_are_tiktokens(name: str, tmp_path: pathlib.Path) -> None:
    loaded = tokenizer.load(RANKS, pattern=ENCODINGS[name][0])
    loaded.save(tmp_path / "tokenizer.json")
    for t in (loaded, tokenizer.load(tmp_path)):
        for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"][name], strict=True):
            assert t.encode(text).tolist() == ids
            assert t.decode(ids) == text
            assert t.token_bytes[ids].sum() == len(text.encode())
        assert t.vocab_size == 382
        assert t.num_specials == 0
        assert (t.pad_id, t.bos_id, t.eos_id) == (381, 381, 381)
        assert t.encode("<|endoftext|>", parse_specials=True).tolist() == [381]
    assert t.fingerprint == loaded.fingerprint


def _lines(count: int) -> bytes:
    """`count` ranks: the bytes, and two bytes each."""
    pairs = itertools.product(range(256), repeat=2)
    tokens = itertools.chain(([b] for b in range(256)), pairs)
    cut = itertools.islice(tokens, count)
    return b"".join(
        base64.b64encode(bytes(token)) + b" %d\n" % i for i, token in enumerate(cut)
    )


def test_a_known_name_tells_pattern_and_specials(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, specials in GOLDEN["specials"].items():
        assert ENCODINGS[name][2] == specials
    known = (
        ENCODINGS["cl100k_base"][0],
        300,
        {"<|endoftext|>": 301, "<|fim_prefix|>": 303},
    )
    monkeypatch.setitem(ENCODINGS, "cl100k_base", known)
    file = tmp_path / "cl100k_base.tiktoken"
    file.write_bytes(_lines(300))
    for path in (file, tmp_path):
        t = tokenizer.load(path)
        assert (t.vocab_size, t.eos_id, t.special_id("<fim_prefix>")) == (304, 301, 303)
        assert t.special_id("<mask>") == 304
        assert t.encode("a\0\0").tolist() == [97, 256]
        assert t.decode([300, 97, 301]) == "a"


def test_holes_between_ids_are_no_text(tmp_path: pathlib.Path) -> None:
    lines = _lines(258).splitlines()
    lines[-1] = lines[-1].replace(b"257", b"261")
    (tmp_path / "x").write_bytes(b"\n".join(lines))
    t = tokenizer.load(tmp_path / "x", pattern=r"\S+|\s+")
    assert (t.vocab_size, t.eos_id) == (263, 262)
    assert t.encode("\0\1 \0\0").tolist() == [261, 32, 256]
    assert t.decode([257, 258, 261]) == "\0\1"


@pytest.mark.parametrize(
    ("data", "pattern", "name", "message"),
    [
        (_lines(300), None, "mine", r"mine holds tiktoken.*tokenizer\.pattern"),
        (_lines(300), None, "o200k_base.tiktoken", "300 ranks; o200k_base has 199998"),
        (_lines(300), "(", "mine", r"pattern '\(' of .*mine is broken"),
        (_lines(255), ".", "mine", "no rank for the byte 255 .*cut short"),
        (_lines(300)[:-4] + b"x\n", ".", "mine", "line 300: .*fetch the file again"),
        (_lines(300) + b"YWJj 5\n", ".", "mine", "gives a rank twice"),
        (_lines(300) + b"YWJj 99999999999\n", ".", "mine", "beyond"),
    ],
)
def test_what_is_wrong_with_a_file(
    tmp_path: pathlib.Path, data: bytes, pattern: str | None, name: str, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        tokenizer.load(tmp_path / name, pattern=pattern)
