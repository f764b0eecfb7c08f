"""Our models for lm-eval, the harness of benchmarks (package `lm_eval`, extra `eval`).

Contexts and continuations are cut into tokens as lm-eval's own `hf` does it, by the
base class that both have: spaces at the end of a context go to the continuation, whose
tokens are those of the whole text behind those of the context.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.infer.scoring import Scorer

STRETCH = 64  # tokens that are written before a text is searched for its end
MAX_NEW_TOKENS = 256  # of a text where a task doesn't say; lm-eval's own
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_IGNORED = ("do_sample", "max_length")  # what else lm-eval's own models are given


class HarnessModel(TemplateLM):
    """A decoder that lm-eval asks for log-likelihoods and for texts.

    Attributes:
      scorer: of the log-likelihoods; counts contexts that were cut.
      cut: contexts of texts of which only the end was read.
    """

    def __init__(
        self,
        scorer: Scorer,
        model: Any,
        params: Any,
        tokenizer: Tokenizer,
        *,
        begin: Callable[[np.ndarray], np.ndarray],
        stop_tokens: Sequence[int],
        pad_id: int,
        batch_size: int,
    ):
        """
        Args:
          scorer: of the model.
          model, params: a decoder and its weights.
          tokenizer: its own.
          begin: ids of a text -> with the special tokens that stand before it.
          stop_tokens: that end what it writes.
          pad_id: any token of its table.
          batch_size: texts that are written together.
        """
        super().__init__()
        self.scorer, self.cut = scorer, 0
        self._model, self._params = model, params
        self._tokenizer, self._begin = tokenizer, begin
        self._ends: dict[str, Any] = {
            "stop_tokens": tuple(stop_tokens),
            "pad_id": pad_id,
        }
        self._batch_size = batch_size

    # --- tokens ----------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._tokenizer.bos_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text, in which special tokens are read, as transformers does.

        The beginning is put before it, unless it has one or `add_special_tokens` is
        False.
        """
        ids = self._tokenizer.encode(string, parse_specials=True)
        begun = len(ids) > 0 and int(ids[0]) == self.prefix_token_id
        if add_special_tokens is None:
            add_special_tokens = not begun
        return (self._begin(ids) if add_special_tokens else ids).tolist()

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        name = chat_template if isinstance(chat_template, str) else "default"
        return self._tokenizer.chat_templates.get(name) if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of messages; without a prompt it ends with the last one's content,
        which the model is to go on with."""
        text = self._tokenizer.apply_chat_template(
            chat_history, add_generation_prompt=add_generation_prompt
        )
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    # --- log-likelihoods -------------------------------------------------------------

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the likeliest) of each continuation.

        Raises:
          ValueError: a continuation that is empty; it names the task and the row.
        """
        for request in requests:
            if not request.args[1]:
                raise ValueError(
                    f"lm-eval's task {request.task_name!r}, row {request.doc_id}: the "
                    "continuation '' is empty, so nothing can be scored; look at the "
                    "task's doc_to_choice or doc_to_target"
                )
        return super().loglikelihood(list(requests), disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        for asked, _, continuation in requests:
            if not continuation:  # the context's last token has it in itself
                raise ValueError(
                    f"the continuation of {asked!r} has no token of its own, so "
                    "nothing can be scored; begin it with a space, or end the context "
                    "before it"
                )
        pairs = [
            (context or [self.prefix_token_id], continuation)
            for _, context, continuation in requests
        ]
        with tqdm(total=len(pairs), unit=" texts", disable=disable_tqdm or None) as bar:
            scores = self.scorer(pairs, bar.update)
        answers = [(score.log_likelihood, score.greedy) for score in scores]
        for (asked, *_), answer in zip(requests, answers, strict=True):
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of each whole text, in windows that overlap in a token.

        As in lm-eval's `hf` a text's own beginning is predicted too, where the
        tokenizer puts one before it.
        """
        windows, owners = [], []
        for number, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.scorer.max_length,
                context_len=1,
            )
            some = [(None, *make_disjoint_window(pair)) for pair in rolling]
            windows += some
            owners += [number] * len(some)
        totals = [0.0] * len(requests)
        answers = self._loglikelihood_tokens(windows, disable_tqdm)
        for number, (value, _) in zip(owners, answers, strict=True):
            totals[number] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # --- texts -----------------------------------------------------------------------

    def generate_until(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """What the model writes behind each context, up to what ends it.

        Raises:
          ValueError: settings that we don't have, or more tokens than the model reads.
        """
        asked = [request.args for request in requests]
        contexts = [np.array(self.tok_encode(c), np.int32) for c, _ in asked]
        keys = [repr(sorted(options.items())) for _, options in asked]
        order = sorted(range(len(asked)), key=lambda k: (keys[k], -len(contexts[k])))
        texts = [""] * len(asked)
        with tqdm(total=len(asked), unit=" texts", disable=disable_tqdm or None) as bar:
            for _, group in itertools.groupby(order, keys.__getitem__):
                places = [*group]
                for start in range(0, len(places), self._batch_size):
                    some = places[start : start + self._batch_size]
                    options = asked[some[0]][1]
                    written = self._write(some, [contexts[k] for k in some], options)
                    for k, text in zip(some, written, strict=True):
                        texts[k] = text
                        self.cache_hook.add_partial("generate_until", asked[k], text)
                    bar.update(len(some))
        return texts

    def _write(
        self,
        rows: Sequence[int],
        contexts: Sequence[np.ndarray],
        options: Mapping[str, Any],
    ) -> list[str]:
        """The texts of a batch, a stretch at a time until each has ended."""
        settings: Any = normalize_gen_kwargs(dict(options), MAX_NEW_TOKENS)
        until = handle_stop_sequences(settings.pop("until", None), eos=None)
        new = settings.pop("max_gen_toks")
        sampling = _sampling(settings)
        room = self.scorer.max_length - new
        if room < 1:
            raise ValueError(
                f"a task asks for {new} new tokens, and the model reads "
                f"{self.scorer.max_length}; lower its max_gen_toks, or raise max_length"
            )
        self.cut += sum(len(context) > room for context in contexts)
        texts = [context[-room:] for context in contexts]
        starts = [len(text) for text in texts]
        left = [*range(len(texts))]
        for first in range(0, new, STRETCH):
            count = min(STRETCH, new - first)
            full = [*left, *left[-1:] * (self._batch_size - len(left))]
            drawn = generate(
                self._model,
                self._params,
                [texts[k] for k in full],
                max_new_tokens=count,
                sampling=sampling,
                rng=first,
                rows=[rows[k] for k in full],
                **self._ends,
            )
            unfinished = []
            for k, ids in zip(left, drawn, strict=False):  # others fill up
                texts[k] = np.concatenate([texts[k], ids])
                said = self._tokenizer.decode(texts[k][starts[k] :])
                if len(ids) == count and _cut(said, until) == said:
                    unfinished.append(k)
            if not (left := unfinished):
                break
        pairs = zip(texts, starts, strict=True)
        return [_cut(self._tokenizer.decode(t[start:]), until) for t, start in pairs]


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """How tokens are drawn, of lm-eval's settings.

    Raises:
      ValueError: others, which would change what is written.
    """
    if unknown := sorted(settings.keys() - {*_SAMPLING, *_IGNORED}):
        raise ValueError(
            f"a task's generation_kwargs have {', '.join(unknown)}; accepted: until, "
            f"max_gen_toks, do_sample, {', '.join(_SAMPLING)}"
        )
    if not settings.get("do_sample"):
        return Sampling(temperature=0.0)
    own = {k: settings[k] for k in _SAMPLING if settings.get(k) is not None}
    return Sampling(**own)


def _cut(text: str, until: Sequence[str]) -> str:
    """A text up to the first of what ends it."""
    for end in until:
        text = text.split(end)[0] if end else text
    return text
