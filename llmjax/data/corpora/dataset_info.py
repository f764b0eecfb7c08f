"""Metadata of our TFDS builders: features, and the account of a corpus."""

import hashlib
from collections import Counter
from typing import Any

import tensorflow_datasets as tfds

Examples = dict[str, list[tuple[str, dict[str, Any]]]]  # split -> (key, example)


def info(
    builder: tfds.core.DatasetBuilder,
    description: str,
    features: tfds.features.FeaturesDict,
) -> tfds.core.DatasetInfo:
    """The info of a builder whose metadata is filled while it generates."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=features,
        metadata=tfds.core.MetadataDict(),
        disable_shuffling=True,
    )


def account(examples: Examples) -> dict[str, Any]:
    """Counts and UTF-8 bytes per split, documents per package, and a content hash."""
    digest = hashlib.sha256()
    documents: dict[str, int] = {}
    size: dict[str, int] = {}
    packages: dict[str, dict[str, int]] = {}
    for split in sorted(examples):
        for _, example in examples[split]:
            key = f"{split}\0{example['name']}\0{example['text']}\0"
            digest.update(key.encode())
        documents[split] = len(examples[split])
        size[split] = sum(len(e["text"].encode()) for _, e in examples[split])
        count = Counter(e.get("package", "") for _, e in examples[split])
        packages[split] = dict(sorted(count.items()))
    return {
        "content_sha256": digest.hexdigest(),
        "documents": documents,
        "bytes": size,
        "documents_per_package": packages,
    }
