"""What scores of texts and pairs mean, against transformers' pipeline, both ways.

A classifier of transformers with random weights and each `problem_type` is read here
and written again: the pipeline on what was written gives the same as we do on what was
read, for single texts and for pairs, some of them longer than the model reads:

    python -m tests.parity.problems
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import processors

from llmjax import hub
from llmjax.config import DataConfig, RunConfig
from llmjax.data.files.slices import Row
from llmjax.hub import tokenizer_files
from llmjax.infer.predict import Predictor
from llmjax.tasks.registry import TASKS, make_task, task_of
from tests.parity import pipelines

TOLERANCE = 1e-5
LONGEST = 20  # tokens that are read
PROBLEMS: dict[str, dict[str, Any]] = {
    "single": {"problem_type": "single_label_classification"},
    "multi_label": {"problem_type": "multi_label_classification"},
    "numbers": {"problem_type": "regression"},
    "number": {"problem_type": "regression", "labels": ("stars",)},
    "one": {"labels": ("relevant",)},
}
# none is empty: the pipeline takes that for a text alone, a batch of transformers not
SECONDS = ["bad film", "fine", "good", "a " * 30, "plot", "was not", " ".join("xyz")]


def bert_tokenizer() -> Any:
    return pipelines.tokenizer()


def llama_tokenizer() -> Any:
    """Words and letters, with <s> before each text."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.,"]
    words = ["<unk>", "<s>", "</s>", *pipelines.WORDS, *letters]
    vocab = {word: k for k, word in enumerate(dict.fromkeys(words))}
    model = tokenizers.models.WordLevel(vocab, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=LONGEST,
    )


def llama_config(size: int) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        intermediate_size=20,
        max_position_embeddings=40,
        initializer_range=0.3,
        pad_token_id=2,
    )


def folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """Models as transformers writes them, by name."""
    for family, tokenizer, config in (
        ("Bert", bert_tokenizer, pipelines.config),
        ("Llama", llama_tokenizer, llama_config),
    ):
        for name, fields in PROBLEMS.items():
            own = tokenizer()
            labels = fields.get("labels", pipelines.LABELS)
            about = config(len(own))
            about.problem_type = fields.get("problem_type")
            about.id2label = dict(enumerate(labels))
            about.label2id = {label: k for k, label in enumerate(labels)}
            torch.manual_seed(0)
            kind = getattr(transformers, f"{family}ForSequenceClassification")
            path = folder / f"{family}-{name}"
            kind(about).save_pretrained(path)
            own.save_pretrained(path)
            yield f"{family} {name}", path


def ours(path: Path, rows: list[dict[str, str]]) -> list[dict[str, float]]:
    """Our scores by name."""
    model, params = hub.load(path)
    task: Any = task_of(model)
    if len(rows[0]) > 1:
        task = TASKS[type(task)].of_pairs(task)
    config = RunConfig(model.cfg, task, DataConfig(seq_len=LONGEST, packing="pad"))
    bound = make_task(config, hub.tokenizer(path))
    predictor = Predictor(config, bound, params, 4)
    given = [Row(row, str) for row in rows]
    answers = predictor(given, dict(zip(bound.inputs, rows[0], strict=True)))
    (name,) = model.labels if len(model.labels) == 1 else ("",)
    return [
        a["probabilities"]
        if "probabilities" in a
        else a.get("values") or {name: a["value"]}
        for a in answers
    ]


def difference(path: Path, rows: list[dict[str, str]]) -> float:
    """The largest difference of a score from the pipeline's on our folder."""
    written = path.parent / f"{path.name}-{len(rows[0])}-again"
    model, params = hub.load(path)
    hub.save(model, params, written, beside=tokenizer_files.beside(path))
    pipe = transformers.pipeline(
        "text-classification", model=str(written), top_k=None, truncation=True
    )
    # of one pair a pipeline gives its scores alone, of a list of texts a list
    theirs = [pipe(row) if len(row) > 1 else pipe([row["text"]])[0] for row in rows]
    named = [{s["label"]: s["score"] for s in row} for row in theirs]
    return pipelines.difference(ours(path, rows), named)


def main() -> int:
    failed = 0
    texts = [{"text": text} for text in pipelines.TEXTS]
    pairs = [r | {"text_pair": b} for r, b in zip(texts, SECONDS, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        for name, path in folders(Path(folder)):
            for what, rows in (("texts", texts), ("pairs", pairs)):
                error = difference(path, rows)
                fine = error <= TOLERANCE
                failed += not fine
                end = "" if fine else f", FAILED: more than {TOLERANCE}"
                print(f"problems: {name}, {what}: largest difference {error:.1e}{end}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
