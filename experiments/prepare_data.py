"""Prepares the corpora of a config: documents or records, tokenizer, token files.

    python -m experiments.prepare_data --config=configs/pretrain/python_docs.py

A second call takes a second, and a killed one continues where it was. Prints what was
read, kept and dropped, the splits and their tokens; with --workdir, its `result.json`
has the hashes of every file, as the corpus' own manifest.json has.
"""

from typing import Any

from experiments import cli, words
from llmjax.data.prepare import prepare, selecting
from llmjax.train import initial


def main() -> dict[str, Any]:
    data = initial.complete(cli.config(), said=cli.said()).data
    first = describe(prepare.prepare(data))
    opened = prepare.open_corpora(data)
    if len(opened) == 1:
        return first
    return {**first, "mixture": [describe(corpus) for _, corpus in opened]}


def describe(corpus: prepare.Corpus) -> dict[str, Any]:
    manifest = corpus.manifest
    return {
        "corpus": manifest["corpus"],
        "folder": str(corpus.folder),
        "class_names": list(corpus.class_names),
        "documents": manifest["dataset"]["documents"],
        "dropped": selecting.dropped(manifest["dataset"].get("cleaning", {})),
        "vocab_size": corpus.tokenizer.vocab_size,
        "content_sha256": manifest["dataset"]["content_sha256"],
        "tokenizer_sha256": corpus.tokenizer.fingerprint,
        "token_files": manifest["token_files"],
        "record_files": manifest.get("record_files", {}),
        "seconds": manifest["seconds"],
    }


if __name__ == "__main__":
    cli.launch(main, ("config",), words.prepared)
