"""Any text goes through preparation with default cleaning and is that text again."""

import csv
import gzip
import io
import json
import pathlib
import tempfile
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet
import pytest
from ftfy import badness
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmjax.config import BPE, Bytes, DataConfig, PrepareConfig, TokenizerConfig
from llmjax.data.prepare import prepare

# What cleaning could take for its own, beside every other character.
SIGNS = " \t\n\r\v\f\0\x1b\x85\xa0\xad\u200b\u2028\u2029\ufeff\ufb01\uff11,;\"'`\\"
WORDS = (
    *("    ", "\n\n\n\n", "\r\n", " \n", "\t\t", "“", "’", "…", "e\u0301", "é", "😀"),
    *("你好\uff0c", "&amp;", "\\n", "\x1b[31m", "#", "def f():\n    return 1", "ﾊﾛｰ"),
)
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(st.sampled_from([*SIGNS, *WORDS]) | CHARACTERS, min_size=1, max_size=20)


def lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": t}).encode() + b"\n" for t in texts)


def table(texts: list[str]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    return out.getvalue().encode()


def columns(texts: list[str]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": texts}), out)
    return out.getvalue()


def zst(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


FORMS: dict[str, Callable[[list[str]], bytes]] = {
    "txt": lambda texts: texts[0].encode(),
    "txt.gz": lambda texts: gzip.compress(texts[0].encode()),
    "jsonl": lines,
    "jsonl.gz": lambda texts: gzip.compress(lines(texts)),
    "jsonl.zst": lambda texts: zst(lines(texts)),
    "json": lambda texts: json.dumps([{"text": t} for t in texts], indent=1).encode(),
    "csv": table,
    "csv.zst": lambda texts: zst(table(texts)),
    "parquet": columns,
}


PARTS = st.fixed_dictionaries(
    {form: st.lists(TEXT.map("".join), min_size=1, max_size=4) for form in FORMS}
)


@pytest.mark.parametrize("tokenizer", [Bytes(), BPE(300)], ids=["byte", "bpe"])
def test_any_text_in_any_format_is_kept(tokenizer: TokenizerConfig) -> None:
    kept: Counter[str] = Counter()

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(PARTS)
    def check(parts: dict[str, list[str]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            kept.update(_check(parts, tokenizer, pathlib.Path(folder)))

    check()
    assert min(kept[form] for form in FORMS) >= 5


def _check(
    parts: dict[str, list[str]], tokenizer: TokenizerConfig, folder: pathlib.Path
) -> dict[str, int]:
    """Prepares texts, each once, and compares; gives the number of each format's."""
    seen: set[str] = set()
    for form, texts in parts.items():
        if form.startswith(("txt", "csv")):  # where zeros are a sign of UTF-16
            texts = [text.replace("\0", "") for text in texts]
        if form.startswith("txt"):  # the mark of an encoding is no text
            texts = [texts[0].removeprefix("\ufeff")]
        texts = [t for t in dict.fromkeys(texts) if t and t not in seen and _good(t)]
        seen.update(texts)
        parts[form] = texts
        if texts:
            (folder / "data").mkdir(exist_ok=True)
            (folder / "data" / f"a.{form}").write_bytes(FORMS[form](texts))
    if not seen:
        return {}
    rules = PrepareConfig(
        min_characters=0, near_duplicates=False, validation=0.0, test=0.0
    )
    corpus = prepare.prepare(
        DataConfig(
            str(folder / "data"),
            directory=str(folder / "cache"),
            tokenizer=tokenizer,
            prepare=rules,
        )
    )
    source = corpus.source("train")
    decoded = [corpus.tokenizer.decode(source[i]["tokens"]) for i in range(len(source))]
    assert sorted(decoded) == sorted(seen)
    return {form: len(texts) for form, texts in parts.items()}


def _good(text: str) -> bool:
    """Whether nothing in a text looks like wrong encoding."""
    return not any(map(badness.is_bad, text.split("\n")))
