"""A result in words: no hash, no table, no JSON."""

from experiments import words

HASH = "ab" * 32
CORPUS = {
    "corpus": "texts_1",
    "folder": "cache/tokens/texts_1/bpe300",
    "class_names": ["neg", "pos"],
    "documents": {"train": 1800, "validation": 90},
    "dropped": {"short": 12, "exact_duplicate": 1},
    "vocab_size": 300,
    "content_sha256": HASH,
    "token_files": {
        "text/train": {"tokens": 5490, "files": {"a": {"sha256": HASH}}},
        "text/validation": {"tokens": 366, "files": {}},
    },
    "record_files": {},
    "seconds": {"cleaning": 1.0, "tokens": 2.5},
}


def rows(text):
    return {
        name.strip(): rest
        for name, rest in (line.split("  ", 1) for line in text.splitlines())
    }


def test_a_corpus():
    text = words.prepared(CORPUS)
    shown = {name: rest.strip() for name, rest in rows(text).items()}
    assert shown == {
        "corpus": "texts_1",
        "folder": "cache/tokens/texts_1/bpe300",
        "read": "1,903 documents",
        "dropped": "13: 12 short, 1 exact duplicate",
        "kept": "1,890: train 1,800, validation 90",
        "labels": "neg, pos",
        "tokens of text": "train 5.49 k, validation 366",
        "tokenizer": "300 tokens",
        "time": "3.5 s",
    }
    assert (
        words.prepared({**CORPUS, "mixture": [CORPUS, CORPUS]}) == f"{text}\n\n{text}"
    )


def test_a_run():
    result = {
        "step": 2000,
        "finished": True,
        "stopped_early": False,
        "peak_memory_bytes": 3 * 2**29,
        "eval": {"loss": 2.0, "bits_per_byte": 1.96234},
        "train": {"loss": 2.25, "grad_norm": 0.3},
        "tokens_per_second": 3066.9,
        "seconds_to_first_step": 12.0,
    }
    shown = {k: v.strip() for k, v in rows(words.training(result)).items()}
    assert shown == {
        "finished": "step 2,000",
        "held out": "loss 2, bits per byte 1.962",
        "training": "loss 2.25",
        "speed": "3,067 tokens/s, the first step after 12 s",
        "peak memory": "1.5 GiB",
    }
    best = {"step": 1500, "metric": "bits_per_byte", "value": 1.9}
    assert "best" not in words.training({**result, "best": {**best, "step": 2000}})
    shown = rows(words.training({**result, "best": best}))
    assert shown["best"].strip() == "bits per byte 1.9 at step 1,500"
    *_, last = words.training({**result, "next": ["llmjax x"]}).splitlines()
    assert last == "next  llmjax x"
    early = words.training({**result, "finished": False})
    assert "not finished" in early and "the same command goes on" in early


def test_any_other_result():
    result = {
        "run": "runs/x",
        "split": None,
        "sha256": HASH,
        "confusion": [[1, 2], [3, 4]],
        "metrics": {"loss": 1.23456, "rows": 12345, "met": True},
        "file_bytes": 2048,
        "names": ["a", "b"],
    }
    shown = {k: v.strip() for k, v in rows(words.of(result)).items()}
    assert shown == {
        "run": "runs/x",
        "metrics loss": "1.235",
        "metrics rows": "12,345",
        "metrics met": "yes",
        "file": "2 KiB",
        "names": "a, b",
    }
