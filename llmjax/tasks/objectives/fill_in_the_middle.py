"""Fill in the middle: a text's middle, moved behind its end, is predicted from both."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from llmjax.tasks.objectives.causal_lm import CausalLMTask

PREFIX, MIDDLE, SUFFIX = "<fim_prefix>", "<fim_middle>", "<fim_suffix>"


@dataclasses.dataclass(frozen=True, eq=False)
class FillInTheMiddleTask(CausalLMTask):
    """Bavarian et al. 2022, arXiv:2207.14255, 3.2: after the text is cut into rows.

    A row is split at its <eos>; each document in it, or what the cut left of one, is
    moved with probability `rate`, and the row is trimmed to its length. Every token is
    predicted, sentinels and <eos> too. Texts are cut between tokens, as by `permute` of
    bigcode-project/Megatron-LM's first FIM code; the paper cuts between characters,
    where a prompt may end within a token (its 4.5), which takes the text itself.
    """

    packings = ("chunk", "pad")
    specials = (PREFIX, MIDDLE, SUFFIX)

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` and, one step ahead, `targets` with their `num_bytes`."""
        bos, eos = self.vocabulary.bos_id, self.vocabulary.eos_id
        text = example["tokens"].astype(np.int32)
        pieces = [one(bos)]
        for piece in np.split(text, np.flatnonzero(text == eos)):
            end, document = np.split(piece, [int(piece[:1].tolist() == [eos])])
            if len(document) and rng.random() < self.config.rate:
                document = self.moved(document, rng)
            pieces += [end, document]
        row = np.concatenate([*pieces, one(eos)])[: self.run.data.seq_len + 1]
        targets = row[1:]
        return {
            "tokens": row[:-1],
            "targets": targets,
            "num_bytes": self.token_bytes[targets],
        }

    def moved(self, text: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The text as prefix, suffix, middle (PSM); a share `spm_rate` suffix first.

        Suffix, prefix, middle (SPM) is the second variant of appendix D, for joint
        training: it reads as PSM with an empty prefix, so that the two share what they
        learn.
        """
        pre, mid, suf = (
            one(self.vocabulary.special_id(s)) for s in (PREFIX, MIDDLE, SUFFIX)
        )
        cuts = np.sort(rng.integers(0, len(text) + 1, 2))
        prefix, middle, suffix = np.split(text, cuts)
        if rng.random() < self.config.spm_rate:
            return np.concatenate([pre, suf, suffix, mid, prefix, middle])
        return np.concatenate([pre, prefix, suf, suffix, mid, middle])

    def length(self, num_tokens: int) -> int:
        """The most that a text of one document becomes."""
        return num_tokens + 1 + len(self.specials)


def one(token: int) -> np.ndarray:
    """Int32 [1]."""
    return np.array([token], np.int32)
