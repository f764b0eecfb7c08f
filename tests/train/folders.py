"""Small models in the hub's formats, with tokenizers of their own."""

import csv
import json
import string

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llmjax import hub
from llmjax.hub import families
from llmjax.models.heads.language import LanguageModel

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LLAMA = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def bert_tokenizer(*more: str) -> tokenizers.Tokenizer:
    """BERT's: lower case, words cut into letters, [CLS] … [SEP]; `more`: added."""
    letters = string.ascii_lowercase
    words = [*SPECIALS, *letters, *(f"##{c}" for c in letters), ".", "good"]
    vocab = {word: i for i, word in enumerate(words)}
    inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([*SPECIALS, *more])
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return inner


def bert(folder, random_params, tokenizer=None, **changes):
    """Writes a BERT with random weights as transformers would; gives its config."""
    cfg = families.family("bert").to_config(BERT | changes)
    model = LanguageModel(cfg)
    params = random_params(model, {"tokens": np.ones((1, 2), np.int32)}, std=0.1)
    hub.save(model, params, folder)
    inner = bert_tokenizer() if tokenizer is None else tokenizer
    inner.save(str(folder / "tokenizer.json"))
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep")}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return cfg


def llama(folder, random_params):
    """Writes a Llama with random weights; its tokenizer says <s> and no </s>."""
    model = LanguageModel(families.family("llama").to_config(LLAMA))
    params = random_params(model, {"tokens": np.ones((1, 2), np.int32)}, std=0.1)
    hub.save(model, params, folder)
    specials = ("<pad>", "<s>", "</s>")
    letters = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([*specials])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    inner.save(str(folder / "tokenizer.json"))
    names = zip(("pad", "bos", "eos"), specials, strict=True)
    named = {f"{name}_token": token for name, token in names}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def write_pairs(file, new, count=60):
    """Pairs whose better answer says the prompt's letter, and a csv of new answers."""
    rows = []
    for i in range(count):
        a, b = "abcd"[i % 4], "abcd"[(i + 1 + i % 3) % 4]
        rows.append({"prompt": f"{i} {a}", "chosen": f" {a}", "rejected": f" {b}"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    new.write_text("prompt,completion\n1 a, a\n2 b, a\n")


def write_searches(file, count=60):
    """Queries and texts that answer them, with the query's word in them."""
    words = [
        "".join("abcdefghij"[int(digit)] for digit in str(i)) for i in range(count)
    ]
    rows = [{"query": f"what is {w}", "answer": f"{w} it is"} for w in words]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_texts(file, count=60, classes=("bad", "good")):
    """A csv of sentences whose first word says the class."""
    with file.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("sentence", "label"))
        for i in range(count):
            name = classes[i % len(classes)]
            other = "".join("abcdefghij"[int(digit)] for digit in str(i))
            writer.writerow((f"{name} it is, {other}", name))
    return file


def write_questions(file, new, count=60):
    """Texts of SQuAD's form with a question each, and a csv of new ones."""
    paragraphs = []
    for i in range(count):
        text = f"{'a ' * (i % 5)}good b"
        answer = {"text": "good", "answer_start": text.index("good")}
        asked = {"id": str(i), "question": "good ?", "answers": [answer]}
        paragraphs.append({"context": text, "qas": [asked]})
    file.write_text(json.dumps({"data": [{"title": "x", "paragraphs": paragraphs}]}))
    new.write_text("question,context\ngood ?,a good b\n")


def write_choices(file, count=60):
    """Rows whose right choice is the question."""
    letters = "abcd"
    rows = (
        {"question": letters[i % 4], "choices": [*letters], "label": i % 4}
        for i in range(count)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
