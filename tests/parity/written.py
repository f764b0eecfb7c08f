"""Texts for texts against transformers: the loss of pairs, and beam search.

    python -m tests.parity.written           # compares, live
    python -m tests.parity.written --write   # writes tests/goldens/written.json anew

The models are those of goldens, drawn again by name; see `goldens`.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llmjax import hub
from llmjax.config import DataConfig, RunConfig, TextToText
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.tokenizers.frame import Frame, Slot
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.infer.beam import beam_search
from llmjax.tasks.registry import make_task
from tests.parity import goldens

FILE = goldens.FOLDER / "written.json"
TOLERANCE = 1e-5
PAIRS = ("t5/1.0", "bart/plain")
SEARCHED = ("t5/1.0", "bart/plain", "gpt2/tied", "llama/default")
NEW, BEAMS = 7, 3
# of the search: length penalty, early stopping as transformers has it, and which tokens
# end a text: those at these (row, place) of the best beams of a search without ends
WAYS: dict[str, tuple[float, Any, tuple[tuple[int, int], ...]]] = {
    "none": (1.0, False, ()),
    "usual": (1.0, False, ((0, 2),)),
    "long": (2.0, True, ((0, 1), (1, 3))),
    "short": (-1.0, False, ((1, 1), (2, 4))),
    "whole": (0.5, "never", ((0, 3), (2, 1))),
}
STOPPING = {False: "heuristic", True: "always", "never": "never"}
TEXTS = [[9, 4, 6, 7, 5], [8, 8, 3], [5, 11, 7, 6, 4, 9, 10, 3]]
TARGETS = [[4, 7], [6, 3, 9, 5, 10, 4], [8]]


def folders(names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Each model's name, config and folder, which goes once the next is asked for."""
    for name in names:
        golden = goldens.read(goldens.path(name))
        with tempfile.TemporaryDirectory() as folder:
            golden.write(Path(folder))
            yield name, golden.config, Path(folder)


# --- the loss of pairs ---------------------------------------------------------------


@dataclasses.dataclass
class Framed(PlainVocabulary):
    """A vocabulary with tokens around each text, as the family has them."""

    slots: tuple[Slot, ...] = ()

    @property
    def _frame(self) -> Frame:
        return Frame(self.slots)


def vocabulary(name: str, config: Mapping[str, Any]) -> Framed:
    end = config.get("eos_token_id", 1)
    before = (Slot(config["bos_token_id"]),) if name.startswith("bart") else ()
    slots = (*before, Slot(), Slot(end))
    return Framed(config["vocab_size"], config["pad_token_id"], 0, end, slots=slots)


class Pairs:
    """The pairs as a source."""

    lengths = np.array([12] * len(TEXTS))

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        source, target = np.array(TEXTS[index]), np.array(TARGETS[index])
        return {"source": source, "target": target}


def our_loss(name: str, config: Mapping[str, Any], folder: Path) -> float:
    """The mean loss per token of a batch."""
    model, params = hub.load(folder)
    start = config["decoder_start_token_id"]
    data = DataConfig(seq_len=10, encoder_seq_len=12, batch_size=3, packing="pad")
    run = RunConfig(model.cfg, TextToText(decoder_start=start), data)
    task = make_task(run, vocabulary(name, config))
    batch = Pipeline(Pairs(), task.features, data, task.length).evaluation()
    model = task.model(model.cfg, run.layout)

    def loss(params, batch):
        outputs = task.outputs(model)({"params": params}, batch, None)
        return task.score(outputs, batch)[2]["loss"]

    total, count = jax.jit(loss)(params, next(batch))
    return float(total / count)


def their_loss(name: str, config: Mapping[str, Any], folder: Path) -> float:
    import torch

    own = vocabulary(name, config)
    sources = [own.with_specials(np.array(row)).tolist() for row in TEXTS]
    labels = [own.with_specials(np.array(row)).tolist() for row in TARGETS]

    def padded(rows: list[list[int]], value: int) -> Any:
        n = max(map(len, rows))
        return torch.tensor([row + [value] * (n - len(row)) for row in rows])

    ones = [[1] * len(row) for row in sources]
    with torch.no_grad():
        out = their_model(folder)(
            input_ids=padded(sources, own.pad_id),
            attention_mask=padded(ones, 0),
            labels=padded(labels, -100),
        )
    return float(out.loss)


# --- beam search ---------------------------------------------------------------------


def ends_of(way: str, without: list[Any]) -> tuple[int, ...]:
    """The tokens that end a text, of what a search without any found."""
    return tuple(without[row][0][0][place] for row, place in WAYS[way][2])


def our_search(
    config: Mapping[str, Any], folder: Path, way: str, ends: tuple[int, ...]
) -> list[Any]:
    """Tokens and scores of the beams of each text."""
    model, params = hub.load(folder)
    penalty, stopping, _ = WAYS[way]
    encoder = config.get("is_encoder_decoder", False)
    prompts = [[config["decoder_start_token_id"]]] * len(TEXTS) if encoder else TEXTS
    found = beam_search(
        model,
        params,
        prompts,
        beams=BEAMS,
        n_best=BEAMS,
        max_new_tokens=NEW,
        length_penalty=penalty,
        early_stopping=STOPPING[stopping],
        stop_tokens=ends,
        encoder_tokens=TEXTS if encoder else None,
    )
    return [[[h.tokens.tolist(), h.score] for h in row] for row in found]


def their_search(
    config: Mapping[str, Any], folder: Path, way: str, ends: tuple[int, ...]
) -> list[Any]:
    import torch

    model = their_model(folder)
    penalty, stopping, _ = WAYS[way]
    out = []
    for text in TEXTS:
        ids = torch.tensor([text])
        result = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            do_sample=False,
            max_new_tokens=NEW,
            length_penalty=penalty,
            early_stopping=stopping,
            eos_token_id=list(ends) or None,
            pad_token_id=config.get("pad_token_id") or 0,
            forced_eos_token_id=None,
            forced_bos_token_id=None,
            return_dict_in_generate=True,
            output_scores=True,
        )
        begun = 1 if config.get("is_encoder_decoder", False) else len(text)
        beams = []
        for row, steps, score in zip(
            result.sequences, result.beam_indices, result.sequences_scores, strict=True
        ):
            length = int((steps >= 0).sum())
            new = row[begun : begun + length].tolist()
            new = new[:-1] if new and new[-1] in ends else new
            beams.append([new, float(score)])
        out.append(beams)
    return out


def their_model(folder: Path) -> Any:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = json.loads((folder / "config.json").read_text())
    family = getattr(transformers, config["architectures"][0])
    model = family.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    model.generation_config.eos_token_id = None
    return model.eval()


def differs(ours: Any, theirs: Any) -> str | None:
    """How two results of a search differ, in words."""
    for b, (row, other) in enumerate(zip(ours, theirs, strict=True)):
        for k, ((tokens, score), (right, wanted)) in enumerate(
            zip(row, other, strict=True)
        ):
            if tokens != right or abs(score - wanted) > TOLERANCE * max(1, abs(wanted)):
                return f"row {b}, beam {k}: {tokens} {score} for {right} {wanted}"
    return None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the goldens anew")
    options = parser.parse_args(arguments)
    golden: dict[str, Any] = {"losses": {}, "searches": {}}
    wrong = 0
    for name, config, folder in folders(PAIRS):
        golden["losses"][name] = theirs = their_loss(name, config, folder)
        error = abs(our_loss(name, config, folder) - theirs)
        wrong += error > TOLERANCE
        print(f"written: the loss of {name}, {theirs:.6f}, differs by {error:.1e}")
    for name, config, folder in folders(SEARCHED):
        without: list[Any] = []
        for way in WAYS:
            ends = ends_of(way, without)
            found = their_search(config, folder, way, ends)
            without = without or found
            golden["searches"][f"{name} {way}"] = found
            problem = differs(our_search(config, folder, way, ends), found)
            wrong += problem is not None
            print(f"written: beams of {name}, {way}: {problem or 'the same'}")
    if options.write:
        FILE.write_text(json.dumps(golden, indent=1) + "\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
