"""What is damaged: whole files of each kind, and the readers that they are given to."""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from flax import traverse_util

from experiments import cli
from llmjax import hub
from llmjax.config import Bytes, DataConfig, PrepareConfig
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers import tokenizer as tokenizers
from llmjax.data.tokenizers.chats import conversation
from llmjax.hub.load import abstract
from tests.parity import goldens
from tests.proofs.hostile.damage import VALUES, damage_bytes, damage_json, rewrite_json

ROOT = Path(__file__).parents[3]
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Subject:
    """A kind of input.

    Attributes:
      build: (rng, folder): writes whole files.
      damage: (rng, folder) -> what was changed.
      load: (folder): reads what is there; checks it where it loads.
    """

    build: Callable[[Rng, Path], None]
    damage: Callable[[Rng, Path], str]
    load: Callable[[Path], None]


# --- the hub -------------------------------------------------------------------------


def build_model(rng: Rng, folder: Path) -> None:
    """A tiny model of one of the hub's families."""
    files = sorted(goldens.FOLDER.glob("*.npz"))
    goldens.read(files[rng.integers(len(files))]).write(folder)


def damage_weights(rng: Rng, folder: Path) -> str:
    """Damages the file's bytes, or the JSON of its header."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        return damage_bytes(rng, file, head)
    header = folder / "header.json"
    header.write_bytes(data[8:head])
    change = rewrite_json(rng, header)
    text = header.read_bytes()
    header.unlink()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[head:])
    return change


def load_model(path: Path) -> None:
    model, params = hub.load(path)
    leaves = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    assert {k: v.shape for k, v in leaves.items()} == abstract(model)[0]


def build_gguf(rng: Rng, folder: Path) -> None:
    """A Llama of one layer with a byte-pair tokenizer, as llama.cpp converts them."""
    import gguf

    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(12)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<s>", "</s>", *map(chr, range(97, 113)), "ab", "abc"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (len(tokens), 8),
        "output_norm": (8,),
        "output": (len(tokens), 8),
        "blk.0.attn_norm": (8,),
        "blk.0.ffn_norm": (8,),
        "blk.0.attn_q": (8, 8),
        "blk.0.attn_k": (4, 8),
        "blk.0.attn_v": (4, 8),
        "blk.0.attn_output": (8, 8),
        "blk.0.ffn_gate": (12, 8),
        "blk.0.ffn_up": (12, 8),
        "blk.0.ffn_down": (8, 12),
    }
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_gguf(folder: Path) -> None:
    load_model(folder / "model.gguf")
    check_tokenizer(hub.tokenizer(folder / "model.gguf"))


# --- tokenizers and templates --------------------------------------------------------

TEXTS = ("A cat, 3 dogs\tand\n\n  naïve 猫.", "", " ", "<s>", "x" * 300)
TEMPLATE = """\
{%- if tools %}{{ '<tools>' + (tools | tojson(indent=2)) + '</tools>' }}{% endif %}
{%- for message in messages %}
{%- if message.role not in ['user', 'assistant', 'system'] %}
{{- raise_exception('no role ' + message.role) }}{% endif %}
{{- '<|' ~ message['role'] ~ '|>\\n' + message['content'] | trim + eos_token }}
{%- endfor %}
{%- set ns = namespace(last='') %}
{%- for i in range(messages | length) %}{% set ns.last = messages[i].role %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
FRAGMENTS = (
    "{% for a in range(10**9) %}x{% endfor %}",
    "{% for a in range(9999) %}" * 2 + "{{ a }}" + "{% endfor %}" * 2,
    "{{ '%0999999999d' % 1 }}",
    "{{ 'x' * 10**10 }}",
    "{{ 9**9**9 }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set ns = namespace(a='xx') %}{% for i in range(99) %}"
    "{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{% include '/etc/passwd' %}",
    "{{ messages[99].content }}",
    "{{ undefined.attribute.attribute }}",
    "{{ 1 / 0 }}",
    "{{ 'x' | center(10**9) }}",
    "{{ 'a' | wordwrap(0) }}",
    "{{ [1] | batch(0) | list }}",
    "{{ 'a'.join(messages) }}",
    "{{ '{0:>9999999999}'.format(1) }}",
    "{{ messages | map('nothing') | list }}",
    "{% generation %}{{ 'said' }}{% endgeneration %}",
    "{{ strftime_now('%' * 99999) }}",
    "{{ raise_exception('no') }}",
    "{% if %}",
    "{{ (" * 300,
    "{" * 9999,
    "{{ lipsum(n=10**7) }}",
)


def build_tokenizer(rng: Rng, folder: Path) -> None:
    """One in each of the forms that the hub's folders have, with its template."""
    words = ["the cat sat", "on the mat", "3 dogs ran away, naïve"] * 3
    tokenizer = tokenizers.train(words, 280)
    tokenizer.save(folder / "tokenizer.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
        "add_bos_token": True,
        "chat_template": TEMPLATE,
        "added_tokens_decoder": {
            "280": {"content": "<s>", "special": True},
            "281": {"content": "</s>", "special": True},
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))


def damage_tokenizer(rng: Rng, folder: Path) -> str:
    files = sorted(folder.glob("*.json"))
    return damage_json(rng, files[rng.integers(len(files))])


def load_tokenizer(folder: Path) -> None:
    check_tokenizer(hub.tokenizer(folder))


def check_tokenizer(tokenizer: Any) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert np.all((ids >= 0) & (ids < tokenizer.vocab_size)), ids
        assert isinstance(tokenizer.decode(ids), str)


def build_sentencepiece(rng: Rng, folder: Path) -> None:
    """A unigram model of 60 pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEMPLATE.split() * 9),
        model_writer=model,
        vocab_size=60,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


def build_template(rng: Rng, folder: Path) -> None:
    (folder / "template.jinja").write_text(TEMPLATE)


def damage_template(rng: Rng, folder: Path) -> str:
    file = folder / "template.jinja"
    if rng.random() < 0.5:
        return damage_bytes(rng, file)
    fragment, at = FRAGMENTS[rng.integers(len(FRAGMENTS))], rng.integers(len(TEMPLATE))
    whole = (0, at, len(TEMPLATE))[rng.integers(3)]
    file.write_text(TEMPLATE[:whole] + fragment + TEMPLATE[whole:])
    return f"{fragment[:60]} at {whole}"


def load_template(folder: Path) -> None:
    template = (folder / "template.jinja").read_text(errors="replace")
    text = conversation.render(
        {"default": template},
        {"bos": "<s>", "eos": "</s>"},
        [{"role": "user", "content": "Hello"}],
        tools=[{"name": "add", "parameters": {}}],
    )
    assert isinstance(text, str)


# --- texts ---------------------------------------------------------------------------


def build_texts(rng: Rng, folder: Path) -> None:
    """Forty documents in one of the formats."""
    texts = [f"  document {i}:\n\tnaïve 猫 {'word ' * 9}" for i in range(40)]
    lines = "".join(json.dumps({"text": t, "label": i % 3}) + "\n" for i, t in
                    enumerate(texts)).encode()  # fmt: skip
    table = pa.table({"text": texts, "label": [i % 3 for i in range(40)]})
    csv, parquet = io.BytesIO(), io.BytesIO()
    pyarrow.csv.write_csv(table, csv)
    pyarrow.parquet.write_table(table, parquet)
    files = {
        "a.txt": "\n\n".join(texts).encode(),
        "a.jsonl": lines,
        "a.json": json.dumps([{"text": t, "label": "x"} for t in texts]).encode(),
        "a.csv": csv.getvalue(),
        "a.parquet": parquet.getvalue(),
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.zst": pa.Codec("zstd").compress(lines, asbytes=True),
        "a.txt.gz": gzip.compress("\n\n".join(texts).encode()),
    }
    name = sorted(files)[rng.integers(len(files))]
    (folder / "texts").mkdir()
    (folder / "texts" / name).write_bytes(files[name])


def damage_texts(rng: Rng, folder: Path) -> str:
    (file,) = (folder / "texts").iterdir()
    if file.suffix == ".json" and rng.random() < 0.5:
        return damage_json(rng, file)
    return damage_bytes(rng, file)


def load_texts(folder: Path) -> None:
    (file,) = (folder / "texts").iterdir()
    label = "" if ".txt" in file.name else "label"
    rules = PrepareConfig(
        min_characters=1,
        near_duplicates=False,
        workers=1,
        label=label,
        validation=0.0,
        test=0.0,
    )
    data = DataConfig(
        source=str(folder / "texts"),
        directory=str(folder / "cache"),
        tokenizer=Bytes(),
        prepare=rules,
    )
    corpus = prepare.prepare(data)
    assert all(isinstance(text, str) for text in corpus.texts("train"))


# --- commands ------------------------------------------------------------------------


def build_nothing(rng: Rng, folder: Path) -> None:
    pass


def paths_of(value: Any, prefix: str) -> list[str]:
    """Dotted paths of a config's fields, of parts as well as of numbers."""
    if not isinstance(value, dict):
        return [prefix]
    return [
        prefix,
        *(p for k, v in value.items() for p in paths_of(v, f"{prefix}.{k}")),
    ]


def damage_overrides(rng: Rng, folder: Path) -> str:
    """One to three flags of a config, with values that it may or may not take."""
    from llmjax import config

    paths = paths_of(config.to_dict(config.RunConfig()), "--config")
    values = (
        *VALUES,
        -1.0,
        "(1,",
        "1e",
        "nan",
        "rotary",
        "adamw",
        "()",
        "[]",
        "1" * 99,
    )
    flags = []
    for _ in range(rng.integers(1, 4)):
        path, value = paths[rng.integers(len(paths))], values[rng.integers(len(values))]
        path += ("", "", "", ".kind", ".x", "[0]", "_")[rng.integers(7)]
        flags.append(f"{path}={value}".replace("\0", "\\0").replace("\ud800", "?"))
    (folder / "flags.json").write_text(json.dumps(flags))
    return " ".join(flag[:80] for flag in flags)


def load_overrides(folder: Path) -> None:
    """Parses the flags as every main does."""
    flags = json.loads((folder / "flags.json").read_text())
    sys.argv = ["main", f"--config={ROOT}/configs/pretrain/python_docs.py", *flags]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            cli.launch(_parse, required=("config",))
    except SystemExit as e:
        if e.code not in (0, None):
            raise ValueError(errors.getvalue().strip()) from None


def _parse() -> None:
    cli.config()


PLACE = {"project": "my-project", "zone": "us-east5-a", "bucket": "gs://bkt/f"}
TPU = PLACE | {"name": "t", "version": "v2-alpha", "type": "v5p-8"}
SCRIPTS: dict[str, dict[str, str]] = {
    "slurm": {"name": "r", "nodes": "4", "gpus": "8", "time": "24:00:00"},
    "tpu_vm": TPU,
    "tpu_pod": TPU,
    "gpu": {"processes": "2"},
    "xpk": PLACE | {"name": "r", "cluster": "c", "type": "v5p-128"},
    "local": {"bucket": "gs://bkt/f"},
}


def damage_launch(rng: Rng, folder: Path) -> str:
    """Changes some flags of a launch script, often to traps for a shell."""
    trap = folder / "trap"
    values = (
        *("", "a", "8", "-1", "1e9", str(10**20), "../../x", "a b", "*", "é", "~"),
        *(f"$(touch {trap})", f"`touch {trap}`", f"; touch {trap};"),
        *(f"'; touch {trap}", f'"; touch {trap}', f"gs://bkt/$(touch {trap})"),
        *(
            "gs://bucket/x",
            "v5e-8",
            f"x\ntouch {trap}",
            "--",
            "-rf",
            "%s%n",
            "x" * 500,
        ),
    )
    script = sorted(SCRIPTS)[rng.integers(len(SCRIPTS))]
    flags = dict(SCRIPTS[script])
    workdir = "gs://bkt/x" if script in ("tpu_pod", "xpk") else "runs/x"
    for name in rng.permutation([*flags, "the run's workdir"])[: rng.integers(1, 3)]:
        value = values[rng.integers(len(values))]
        if name in flags:
            flags[name] = value
        else:
            workdir = value
    command = ["--", "python", "-m", "experiments.pretrain", f"--workdir={workdir}"]
    words = [f"--{name}={value}" for name, value in flags.items()]
    line = ["bash", f"launch/{script}.sh", *words, "--dry_run", *command]
    (folder / "line.json").write_text(json.dumps(line))
    return " ".join(part[:80] for part in line)


def load_launch(folder: Path) -> None:
    """Runs the script dry; what it prints must be a shell's lines."""
    line = json.loads((folder / "line.json").read_text())
    empty = folder / "bin"
    empty.mkdir()
    for name in ("gcloud", "sbatch", "srun", "xpk", "gsutil", "docker", "ssh", "rsync"):
        (empty / name).write_text("#!/bin/sh\nexit 0\n")
        (empty / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{empty}:{os.environ['PATH']}"}
    done = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20
    )
    if (folder / "trap").exists():
        raise AssertionError("a flag was run as a command")
    if done.returncode == 0:
        subprocess.run(["bash", "-n", "-c", done.stdout], check=True, timeout=20)
        return
    if done.returncode != 2:
        raise AssertionError(f"exit code {done.returncode}: {done.stderr[-500:]}")
    raise ValueError(done.stderr.strip().rpartition("\n")[2])  # usage may come before


SUBJECTS = {
    "safetensors": Subject(build_model, damage_weights, load_model),
    "config.json": Subject(
        build_model, lambda rng, f: damage_json(rng, f / "config.json"), load_model
    ),
    "gguf": Subject(
        build_gguf,
        lambda rng, f: damage_bytes(rng, f / "model.gguf", 1500),
        load_gguf,
    ),
    "tokenizer": Subject(build_tokenizer, damage_tokenizer, load_tokenizer),
    "sentencepiece": Subject(
        build_sentencepiece,
        lambda rng, f: damage_bytes(rng, f / "spiece.model"),
        load_tokenizer,
    ),
    "template": Subject(build_template, damage_template, load_template),
    "texts": Subject(build_texts, damage_texts, load_texts),
    "overrides": Subject(build_nothing, damage_overrides, load_overrides),
    "launch": Subject(build_nothing, damage_launch, load_launch),
}
