"""From a folder of the hub and rows to texts that a model wrote, a command each."""

import json

import numpy as np
import pytest

from llmjax import hub
from llmjax.hub import families
from llmjax.models.heads.language import LanguageModel
from tests.data.test_answers import of
from tests.experiments.forked import Mains
from tests.parity import chats

pytestmark = pytest.mark.slow
LLAMA = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
T5 = {
    "vocab_size": 272,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "decoder_start_token_id": 256,
    "feed_forward_proj": "gated-gelu",
}
FAST = [
    "--config.train.steps=150",
    "--config.train.eval_every=150",
    "--config.train.checkpoint_every=150",
    "--config.optimizer.learning_rate=1e-2",
    "--config.data.batch_size=16",
]


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def folder_of(folder, family, hf, random_params, tokenizer):
    """Writes a tiny model as transformers would, with a tokenizer of bytes."""
    model = LanguageModel(families.family(family).to_config(hf))
    batch = {"tokens": np.ones((1, 2), np.int32)}
    if family == "t5":
        batch["encoder_tokens"] = batch["tokens"]
    hub.save(model, random_params(model, batch, std=0.1), folder, family=family)
    config = json.loads((folder / "config.json").read_text())
    start = {"decoder_start_token_id": hf.get("decoder_start_token_id")}
    config |= {"eos_token_id": 257} | start
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(folder / "tokenizer.json")


def letters(count, seed):
    """Letters, and the first of them as what is to be written."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drawn = rng.permutation([*"abcd"])[:3]
        yield "".join(drawn), str(drawn[0])


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(file):
    return [*map(json.loads, file.read_text().splitlines())]


def run(mains, main, *args):
    done = mains.run(main, *map(str, args))
    assert done.code == 0, done.err
    return done


def test_a_chat_is_learned_written_and_exported(mains, tmp_path, random_params):
    folder_of(tmp_path / "llama", "llama", LLAMA, random_params, of("kimi"))
    (tmp_path / "data").mkdir()
    for seed, (name, count) in enumerate((("train", 300), ("dev", 20), ("test", 20))):
        pairs = letters(count, seed)
        rows = ({"prompt": asked, "completion": said} for asked, said in pairs)
        write(tmp_path / "data" / f"{name}.jsonl", rows)
    done = run(
        mains,
        "finetune",
        "--config=configs/finetune/chat.py",
        f"--config.init.path={tmp_path}/llama",
        f"--config.data.source={tmp_path}/data",
        f"--config.data.directory={tmp_path}/cache",
        "--config.data.seq_len=96",
        "--config.task.decoding.max_new_tokens=4",
        *FAST,
        f"--workdir={tmp_path}/run",
    )
    assert "messages in 'prompt', 'completion'" in done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["report"]["exact_match"] > 0.5  # chance: 0.25
    assert result["report"]["texts"] == 20 and "exact match" in done.out
    assert result["eval"]["perplexity"] == pytest.approx(np.exp(result["eval"]["loss"]))
    run(
        mains,
        "evaluate",
        f"--run={tmp_path}/run",
        "--split=test",
        f"--workdir={tmp_path}/test",
    )
    written = read(tmp_path / "test" / "predictions.jsonl")
    assert [row["example"] for row in written] == [*range(20)]
    right = [said for _, said in letters(20, 2)]
    hits = np.mean([r["prediction"] == s for r, s in zip(written, right, strict=True)])
    score = json.loads((tmp_path / "test" / "result.json").read_text())["exact_match"]
    assert hits == score > 0.5
    rows = [{"messages": [{"role": "user", "content": a}]} for a, _ in letters(20, 2)]
    write(tmp_path / "new.jsonl", rows)
    run(
        mains,
        "predict",
        f"--run={tmp_path}/run",
        f"--input={tmp_path}/new.jsonl",
        f"--output={tmp_path}/answers.jsonl",
    )
    answers = read(tmp_path / "answers.jsonl")
    assert [a["prediction"] for a in answers] == [w["prediction"] for w in written]
    prompt = rows[0]["messages"][0]["content"]
    greedy = ("--temperature=0", f"--prompt={prompt}")
    done = run(mains, "generate", f"--run={tmp_path}/run", *greedy)
    assert done.out == f"{answers[0]['prediction']}\n---\n"
    run(mains, "convert", f"--source={tmp_path}/run", f"--target={tmp_path}/hub")
    kept = hub.tokenizer(tmp_path / "hub").chat_templates
    assert kept["default"] == (chats.TEMPLATES / "kimi.jinja").read_text()


def test_summaries_are_learned_written_and_exported(mains, tmp_path, random_params):
    folder_of(tmp_path / "t5", "t5", T5, random_params, of("llama2"))
    (tmp_path / "data").mkdir()
    for seed, (name, count) in enumerate((("train", 300), ("dev", 20))):
        words = (said for _, said in letters(count, seed))
        rows = ({"article": said * 3, "highlights": said} for said in words)
        write(tmp_path / "data" / f"{name}.jsonl", rows)
    done = run(
        mains,
        "finetune",
        "--config=configs/finetune/text_to_text.py",
        f"--config.init.path={tmp_path}/t5",
        f"--config.data.source={tmp_path}/data",
        f"--config.data.directory={tmp_path}/cache",
        "--config.data.seq_len=8",
        "--config.data.encoder_seq_len=16",
        "--config.task.prefix=first: ",
        "--config.task.decoding.max_new_tokens=5",
        "--config.task.decoding.beams=2",
        *FAST,
        f"--workdir={tmp_path}/run",
    )
    assert "source in 'article', target in 'highlights'" in done.err
    report = json.loads((tmp_path / "run" / "result.json").read_text())["report"]
    assert report["exact_match"] > 0.5 and report["texts"] == 20
    (tmp_path / "new.csv").write_text("article\nbbb\nccc\n")
    run(
        mains,
        "predict",
        f"--run={tmp_path}/run",
        f"--input={tmp_path}/new.csv",
        f"--output={tmp_path}/new.jsonl",
    )
    first, second = read(tmp_path / "new.jsonl")
    assert first["article"] == "bbb" and first["score"] < 0
    assert len(second["prediction"]) < 6
    run(mains, "convert", f"--source={tmp_path}/run", f"--target={tmp_path}/hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["architectures"] == ["T5ForConditionalGeneration"]
    assert config["decoder_start_token_id"] == 256
    (tmp_path / "new.csv").write_text("article\nbad\n \n")
    done = mains.run(
        "predict",
        f"--run={tmp_path}/run",
        f"--input={tmp_path}/new.csv",
        f"--output={tmp_path}/other.jsonl",
    )
    assert done.code == 2 and "the text is empty; take the row out" in done.err
