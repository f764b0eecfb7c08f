"""Next item: what a user's history goes on with, among all items."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    Checkpoint,
    DataConfig,
    Label,
    Number,
    SampledNegatives,
    wording,
)
from llmjax.data.batches.pipeline import Source
from llmjax.data.batches.streams import Feature
from llmjax.data.files.slices import label_name
from llmjax.data.prepare import events as columns
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.models.heads import language
from llmjax.models.heads.classifier import has_segments, pool, texts
from llmjax.tasks.items import losses, ranking
from llmjax.tasks.items.histories import EXACT, Asked, Events, Histories, histories
from llmjax.tasks.labelled import pairs
from llmjax.tasks.objectives.language import LanguageObjective, token_weights
from llmjax.tasks.routing import Routed, with_routing
from llmjax.tasks.task import Batch, Metrics, Predictions, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class NextItemTask(LanguageObjective):
    """Each item of a history given those before it; see `config.NextItem`.

    Tokens are items: <bos> and all but the last, whose targets are one step ahead. An
    evaluation ranks all items, at the end of each history.
    """

    packings = ("pad", "first_fit")
    labels = ("next",)
    inputs = ("history",)
    read_values = ("history",)
    answer_columns = ("items", "scores")
    own_vocabulary = True

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        names = task.user_field, task.item_field, task.time_field
        return columns.with_events(data, *names, said=said)

    @functools.cached_property
    def names(self) -> dict[int, str]:
        """Id -> name of each item; of a plain vocabulary its number."""
        vocabulary: Any = self.vocabulary
        if not hasattr(vocabulary, "json"):
            return {k: str(k) for k in range(3, vocabulary.vocab_size)}
        vocab = json.loads(vocabulary.json)["model"]["vocab"]
        if not isinstance(vocab, dict):
            return {}
        specials = set(vocabulary.added_tokens.values())
        return {i: name for name, i in vocab.items() if i not in specials}

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Name -> id of each item."""
        return {name: i for i, name in self.names.items()}

    @functools.cached_property
    def items(self) -> np.ndarray:
        """Ids of the items, sorted, int64."""
        return np.array(sorted(self.names), np.int64)

    @property
    def declared(self) -> Mapping[str, Feature]:  # type: ignore[override]
        loss = self.config.loss
        if not isinstance(loss, SampledNegatives):
            return {}
        return {"negatives": Feature(shape=(loss.draws,), dtype=np.int32)}

    def check(self) -> None:
        """Raises ValueError for longer lists than there are items, a vocabulary that
        has none, or terms of a loss that has no softmax."""
        config = self.config
        if config.top > len(self.items):
            raise ValueError(
                f"task.top={config.top}, and the tokenizer has {len(self.items)} "
                "items; lower it, or set data.tokenizer.kind='items'"
            )
        sampled = isinstance(config.loss, SampledNegatives)
        for name, value in dataclasses.asdict(self.run.loss).items():
            if sampled and value:
                raise ValueError(
                    f"loss.{name}={value} is a term of a softmax, and task.loss.kind="
                    "'sampled' has none; set it to 0"
                )
        if self.run.data.seq_len < 2:
            raise ValueError("data.seq_len=1 leaves no room for a history; raise it")

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Histories:
        """The histories of a split, which the task divides by itself.

        Raises:
          ValueError: the corpus has no such fields, several splits of its own, or an
            event without a user, an item or a time that is exact.
        """
        events = self._events(corpus)
        return histories(events, self.config.split, split, self.run.data.seq_len)

    def _events(self, corpus: Corpus) -> Events:
        user, item, time = "user", "item", "time"
        fields = {k: getattr(self.config, f"{k}_field") for k in (user, item, time)}
        types = {user: Label, item: Label, time: Number}
        kinds = {fields[name]: (kind,) for name, kind in types.items()}
        pairs.require_kinds(corpus, kinds, {f: n for n, f in fields.items()})
        splits = corpus.manifest["dataset"]["documents"]
        if len(splits) > 1:
            raise ValueError(
                f"the corpus {corpus.manifest['corpus']} has the splits "
                f"{', '.join(splits)}, and task.split divides events by time; put them "
                "into one, with data.prepare.validation=0 and .test=0"
            )
        records = corpus.records(next(iter(splits)))
        users, own = (records.labels(fields[name]) for name in (user, item))
        for name, numbers in ((user, users), (item, own)):
            for k in np.flatnonzero(numbers < 0)[:1].tolist():
                raise ValueError(f"record {k} has no {name}; mend it, or take it out")
        times = np.fromiter(records.values(fields[time]), np.float64, len(records))
        for k in np.flatnonzero(np.abs(times) > EXACT)[:1].tolist():
            raise ValueError(
                f"record {k} has the time {times[k]:.0f}, beyond 2**53, where a number "
                "is not told from the next; give seconds, or their thousandths"
            )
        kind: Any = corpus.schema.fields[fields[item]]
        strangers = [name for name in kind.classes if name not in self.ids]
        if strangers:
            remedy = "set data.tokenizer.kind='items'"
            if isinstance(self.run.init, Checkpoint):  # whose ids these are
                remedy = "begin without init.path"
            raise ValueError(
                f"the item {strangers[0]!r} is not among the {len(self.ids)} of the "
                f"tokenizer; {remedy}, or leave its events out"
            )
        ids = np.array([self.ids[name] for name in kind.classes], np.int64)
        return Events.of(users, ids[own], times)

    def examples(self, documents: Any) -> Source:
        return documents

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens`, `targets` one step ahead, their `weights`, `next`, the last of
        them, and with sampled negatives `negatives` [n, K]."""
        targets = example["items"].astype(np.int32)
        weights = np.ones(len(targets), np.float32)
        if example["held_out"]:
            weights[:-1] = 0
        features = {
            "tokens": np.append(np.int32(self.vocabulary.bos_id), targets[:-1]),
            "targets": targets,
            "weights": weights,
            "next": targets[-1],
        }
        loss = self.config.loss
        if isinstance(loss, SampledNegatives):
            shape = len(targets), loss.draws
            features["negatives"] = losses.negatives(
                rng, self.items, example["seen"], shape
            )
        return features

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        n = self.run.data.seq_len
        rng = np.random.default_rng(0)
        items = rng.choice(self.items, rows * n).astype(np.int32)
        starts = np.arange(rows) * n
        places = np.stack([starts, starts + n, starts, starts + n], axis=1)
        return pairs.full_batch(self, Histories(items, places, False), rows)

    # --- loss and predictions --------------------------------------------------------

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics: `loss` per item; of an evaluation the mean of `ranking.gains` too,
        of the last item of each history."""
        weights_BT, config = token_weights(batch), self.config
        count = jnp.sum(weights_BT)
        if isinstance(loss := config.loss, SampledNegatives):
            beta = losses.power(loss.draws, len(self.items), loss.calibration)
            head: language.Outputs = outputs.head
            places = batch["targets"], batch["negatives"]
            loss_BT = losses.sampled(head.x_BTM, head.table_VM, *places, beta)
            total = jnp.sum(loss_BT * weights_BT)
            metrics: Metrics = {"loss": (total, count)}
        else:
            total, metrics = self.token_loss(outputs.head, batch, weights_BT, True)
        if not training:
            valid = batch["valid"].astype(jnp.float32)
            place = ranking.rank(self._scores(outputs.head, batch), batch["next"])
            for name, gain in ranking.gains(place, config.top).items():
                metrics[name] = jnp.sum(gain * valid), jnp.sum(valid)
        return with_routing(outputs, total, count, metrics)

    def _scores(self, head: language.Outputs, batch: Batch) -> jax.Array:
        """Float32 scores behind the end of each history, [B, V] or [B, G, V]; -inf for
        those that are no items or are not to be answered."""
        member_BGT = texts(batch)
        last = head.replace(x_BTM=pool(head.x_BTM, member_BGT, "last"))  # type: ignore[attr-defined]
        scores_BGV = last.logits()
        V = scores_BGV.shape[-1]
        allowed = np.zeros(V, bool)
        allowed[self.items] = True
        scores_BGV = jnp.where(jnp.asarray(allowed), scores_BGV, -jnp.inf)
        if self.config.exclude_seen:
            seen_BGV = jnp.zeros(scores_BGV.shape, bool)
            B, G = scores_BGV.shape[:2]
            b, g = jnp.arange(B)[:, None, None], jnp.arange(G)[None, :, None]
            seen_BGV = seen_BGV.at[b, g, batch["tokens"][:, None]].max(member_BGT)
            scores_BGV = jnp.where(seen_BGV, -jnp.inf, scores_BGV)
        return scores_BGV if has_segments(batch) else scores_BGV[:, 0]

    def predict(self, model: Any) -> Callable[[Variables, Batch], Any]:
        """The likeliest `items` of each history, their `scores`, and the `rank` of the
        one that is next."""

        def predict(variables, batch):
            head, _ = forward(model, variables, batch, method="outputs")
            scores = self._scores(head, batch)
            best, items = jax.lax.top_k(scores, self.config.top)
            place = ranking.rank(scores, batch["next"])
            return {"items": items, "scores": best, "rank": place}

        return predict

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        return {"history": "history"}

    @property
    def sample(self) -> dict[str, Any]:
        return {"history": [self.names[int(self.items[0])]]}

    def read_row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The names of the items of a history.

        Of a list, of JSON, or of a text with spaces between them; () for a user that
        had nothing.

        Raises:
          ValueError: something else, or an item that is no name.
        """
        value = values["history"]
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError(f"the history is no JSON: {value[:40]!r}") from None
        elif isinstance(value, str):
            value = value.split()
        value = [] if value is None else value
        if not isinstance(value, list):
            raise ValueError(
                f"the history is {type(value).__name__} {value!r}; accepted: a list of "
                "items, also as JSON, or their names with spaces between them"
            )
        return {"history": [*map(_item, range(len(value)), value)]}

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Histories; items that nothing is known of are left out and counted."""
        unknown = 0
        each = []
        for row in rows:
            known = [self.ids[n] for n in row["history"] if n in self.ids]
            unknown += len(row["history"]) - len(known)
            each.append(np.array(known, np.int32))
        if unknown:
            print(
                f"{wording.count(unknown, 'item')} of {len(rows):,} histories left "
                "out, which the run has not learned",
                file=sys.stderr,
            )
        return Asked(each, self.run.data.seq_len)

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """The names of the likeliest items, and their scores; fewer where only fewer
        may be answered."""
        decoded = []
        for ids, scores in zip(values["items"], values["scores"], strict=True):
            kept = np.isfinite(scores)
            decoded.append(
                {
                    "items": [self.names[int(i)] for i in ids[kept]],
                    "scores": [float(s) for s in scores[kept]],
                }
            )
        return decoded

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        """The likeliest item."""
        return answer["items"][:1]

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """See `ranking.report`."""
        ranks, chosen = [], np.zeros(self.run.model.vocab_size, bool)
        for part in predictions:
            ranks.append(part.values["rank"])
            there = np.isfinite(part.values["scores"])
            chosen[part.values["items"][there]] = True
        top = self.config.top
        return ranking.report(np.concatenate(ranks), chosen, len(self.items), top)

    def describe(self, report: Mapping[str, Any]) -> str:
        return ranking.describe(dict(report), self.config.top)


def _item(place: int, value: Any) -> str:
    """The name of an item of a history.

    Raises:
      ValueError: none.
    """
    try:
        name = label_name(value)
    except ValueError as e:
        raise ValueError(f"the history's item at place {place} is {e}") from None
    if name is None:
        raise ValueError(
            f"the history has {value!r} at its place {place}, which is no item; take "
            "it out"
        )
    return name
