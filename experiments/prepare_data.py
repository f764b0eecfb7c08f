"""Makes the corpus of a config: documents, tokenizer, token files.

    python -m experiments.prepare_data --config=configs/pretrain/python_docs.py

What was made before is kept; a second call takes a second.
"""

from typing import Any

from experiments import cli
from llmjax.data import prepare


def main() -> dict[str, Any]:
    corpus = prepare.prepare(cli.config().data)
    manifest = corpus.manifest
    return {
        "corpus": manifest["corpus"],
        "folder": str(corpus.folder),
        "class_names": list(corpus.class_names),
        "vocab_size": corpus.tokenizer.vocab_size,
        "content_sha256": manifest["dataset"]["content_sha256"],
        "tokenizer_sha256": corpus.tokenizer.fingerprint,
        "token_files": manifest["token_files"],
        "seconds": manifest["seconds"],
    }


if __name__ == "__main__":
    cli.launch(main, required=("config",))
