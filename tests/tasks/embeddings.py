"""A run of text embedding whose vectors are those of random tokens."""

import dataclasses

from llmjax.config import DataConfig, LayoutConfig, RunConfig, TextEmbedding


def of_config(tiny, dropout=0.0, microbatches=1, batch_size=8, **fields):
    model = dataclasses.replace(
        tiny, architecture="encoder", num_layers=1, dropout=dropout
    )
    data = DataConfig(packing="pad", seq_len=12, batch_size=batch_size)
    layout = LayoutConfig(microbatches=microbatches)
    task = TextEmbedding(**{"max_query": 8, "negatives": 1} | fields)
    return RunConfig(model, task, data, layout)
