"""The choice of predicted tokens, and what the model reads in their place."""

import numpy as np

from llmjax.config import MaskedLM
from llmjax.data.tokenizers.vocabulary import Vocabulary


def budget(rate: float, num_tokens: int) -> int:
    """Predicted tokens of a text of `num_tokens`, specials included; at least one."""
    return max(1, round(rate * num_tokens))


class TokenMasking:
    """Masking of a text by the rules of a `MaskedLM`.

    "token" and "whole_word" are those of google-research/bert's
    create_pretraining_data.py (Devlin et al. 2018, arXiv:1810.04805), "span" that of
    facebookresearch/SpanBERT's PairWithSpanMaskingScheme (Joshi et al. 2020,
    arXiv:1907.10529), with BERT's budget. The choice is made anew each time a text is
    seen, as by RoBERTa (Liu et al. 2019, arXiv:1907.11692, 4.1). Special tokens are
    never chosen; of them only <mask> replaces a token.
    """

    def __init__(self, config: MaskedLM, vocabulary: Vocabulary):
        self._config, self._vocabulary = config, vocabulary
        self._mask = vocabulary.special_id("<mask>")
        frame = [vocabulary.special_id(token) for token in ("<cls>", "<sep>")]
        own = [vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id]
        self._specials = np.array([*own, *frame, self._mask])
        of_text = np.flatnonzero(vocabulary.token_bytes[: vocabulary.vocab_size] > 0)
        self._replacements = np.setdiff1d(of_text, self._specials).astype(np.int32)
        lengths = np.arange(1, config.max_span + 1)
        p = (1 - config.span_p) ** (lengths - 1.0)
        self._span_cdf = np.cumsum(p / p.sum())

    def __call__(
        self, tokens: np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Masked `tokens`, the originals `targets`, int32 `weights` (1: predicted).

        Of the predicted tokens a share `mask_share` becomes <mask> and `random_share`
        any token of the vocabulary; the rest stays. The draw is per token, or with
        "span" per run of predicted tokens (SpanBERT, 3.1).

        Args:
          tokens: int32 [n], specials included.
        """
        chosen = np.sort(self.choose(tokens, rng))
        masked, weights = tokens.copy(), np.zeros(len(tokens), np.int32)
        weights[chosen] = 1
        unit = np.arange(len(chosen))
        if self._config.masking == "span" and len(chosen):
            unit = np.cumsum(np.diff(chosen, prepend=chosen[0]) > 1)
        draw = rng.random(len(chosen))[unit]
        hidden = draw < self._config.mask_share
        changed = draw < self._config.mask_share + self._config.random_share
        masked[chosen[changed]] = rng.choice(self._replacements, int(changed.sum()))
        masked[chosen[hidden]] = self._mask
        return {"tokens": masked, "targets": tokens, "weights": weights}

    def choose(self, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The places of the predicted tokens, int [n], n at most the budget.

        Single tokens fill the budget; whole words that would overflow it are passed
        over; the last span is cut at it.
        """
        eligible = ~np.isin(tokens, self._specials)
        count = min(budget(self._config.rate, len(tokens)), int(eligible.sum()))
        places = np.flatnonzero(eligible)
        if self._config.masking == "token" or count == 0:
            return rng.choice(places, count, replace=False)
        starts = self._vocabulary.word_starts(tokens) | ~eligible
        starts[1:] |= ~eligible[:-1]
        starts[:1] = True
        word = np.cumsum(starts) - 1  # of each token
        begins = np.append(np.flatnonzero(starts), len(tokens))
        if self._config.masking == "whole_word":
            return _whole_words(places, word, begins, count, rng)
        lengths = self._span_cdf
        return _spans(places, eligible, word, begins, lengths, count, rng)


def _whole_words(places, word, begins, count, rng):
    """Places of words in random order, passing over those that no longer fit."""
    chosen: list[np.ndarray] = []
    left = count
    for w in rng.permutation(np.unique(word[places])):
        size = begins[w + 1] - begins[w]
        if size <= left:
            chosen.append(np.arange(begins[w], begins[w + 1]))
            left -= size
        if not left:
            break
    return np.concatenate([np.zeros(0, np.int64), *chosen])


def _spans(places, eligible, word, begins, cdf, count, rng):
    """Places of spans, each from the word of a random token not yet chosen.

    Lengths in words are drawn from the distribution `cdf`; a span ends before a
    special token.
    """
    chosen = np.zeros(len(word), bool)
    left = count
    while left:
        length = 1 + int(np.searchsorted(cdf, rng.random(), "right"))
        anchor = rng.choice(places[~chosen[places]])
        first = begins[word[anchor]]
        last = begins[min(word[anchor] + length, len(begins) - 1)]
        barrier = np.flatnonzero(~eligible[first:last])
        if len(barrier):
            last = first + barrier[0]
        new = first + np.flatnonzero(~chosen[first:last])[:left]
        chosen[new] = True
        left -= len(new)
    return np.flatnonzero(chosen)
