"""Reward models: a number for each answer, learned from pairs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import DataConfig, LayoutConfig, ModelConfig
from llmjax.data.prepare import preferences
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.tasks.labelled.labelled import LabelledTask, Way
from llmjax.tasks.preferences import rows, talks
from llmjax.tasks.preferences.answers import AnswerTask
from llmjax.tasks.preferences.rows import OTHER
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import Batch, Metrics, Outputs, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class RewardModelTask(AnswerTask, LabelledTask):
    """A classifier of one class, whose score is the reward of an answer.

    A row has the special tokens that the tokenizer puts around a text, and of a decoder
    ends with <eos>, whose hidden state is read.
    """

    architectures = ("decoder", "encoder")
    answer_columns = ("reward",)
    head = SequenceClassifier

    @classmethod
    def classes(cls, task: Any, corpora: Sequence[Corpus]) -> tuple[str, ...]:
        return ()

    @classmethod
    def with_labels(cls, task: Any, names: tuple[str, ...]) -> Any:
        return task

    @classmethod
    def way(cls, task: Any) -> Way:
        return task.pooling or "last", task.form

    @classmethod
    def with_way(cls, task: Any, way: Way) -> Any:
        if task.pooling or task.head:
            return task
        pooling, form = way
        return dataclasses.replace(task, pooling=pooling, head=form)

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        names = task.prompt_field, task.chosen_field, task.rejected_field
        return preferences.with_pairs(data, *names, (task.margin_field,), said=said)

    @property
    def num_outputs(self) -> int:
        return 1

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The pairs of a split; see `Split`."""
        margin = self.config.margin_field
        numbers = {"margin": margin} if margin in corpus.schema.fields else {}
        return self.pairs(corpus, split, numbers)

    @property
    def around(self) -> int:
        return self.length(0)

    @property
    def longest_prompt(self) -> int:
        return self.run.data.seq_len - 1

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` of the chosen or the only answer behind its prompt, under `other_`
        those of the rejected one, and of pairs that have one the scalar `margin`."""
        if "completion" in example:
            return {"tokens": self._row(example, "completion")}
        made = {
            name: self._row(example, answer)
            for name, answer in (("tokens", "chosen"), (f"{OTHER}tokens", "rejected"))
        }
        if "margin" in example:
            made["margin"] = np.asarray(example["margin"], np.float32)
        return made

    def _row(self, example: Mapping[str, Any], answer: str) -> np.ndarray:
        text = np.concatenate([example["prompt"], example[answer]], dtype=np.int32)
        if example.get(talks.WHOLE):
            return text[: self.run.data.seq_len]
        text = text[: self.text_length]
        row, eos = self.vocabulary.with_specials(text), self.vocabulary.eos_id
        if self._ends_itself:
            return row
        return np.append(row, np.int32(eos))

    @property
    def _ends_itself(self) -> bool:
        """Whether no <eos> is put behind a row: it has one, or is an encoder's."""
        row = self.vocabulary.with_specials(np.zeros(1, np.int32))
        ends = row[-1] == self.vocabulary.eos_id
        return bool(ends) or self.run.model.architecture == "encoder"

    def length(self, num_tokens: int) -> int:
        return num_tokens + self.vocabulary.num_specials + (not self._ends_itself)

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        texts = self.random_texts(3 * rows)
        triples = zip(texts[::3], texts[1::3], texts[2::3], strict=True)
        names = ("prompt", "chosen", "rejected")
        examples = [dict(zip(names, t, strict=True)) for t in triples]
        return self.full_batch(self.listed(examples, self.text_length), rows)

    # --- model and loss --------------------------------------------------------------

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        pooling, form = self.way(self.config)
        assert pooling != "none"
        return SequenceClassifier(cfg, 1, pooling, layout, form, problem="regression")

    def outputs(self, model: nn.Module) -> Outputs:
        """The rewards of both answers of each pair, float32 [B] each."""

        def outputs(variables, batch, rng):
            made = routed(model)(variables, rows.interleaved(batch), rng)
            chosen_B1, rejected_B1 = rows.divided(made.head)
            return Routed((chosen_B1[:, 0], rejected_B1[:, 0]), made.router_loss)

        return outputs

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics per pair: `loss`, `accuracy` (the chosen answer has the higher
        reward), the `margin` between both rewards, and these."""
        chosen_B, rejected_B = outputs.head
        margin_B = chosen_B - rejected_B
        loss_B = -jax.nn.log_sigmoid(margin_B - batch.get("margin", 0.0))
        loss_B += self.config.centering * jnp.square(chosen_B + rejected_B)
        valid_B = batch["valid"].astype(jnp.float32)
        count, total = jnp.sum(valid_B), jnp.sum(loss_B * valid_B)
        means = {
            "loss": loss_B,
            "accuracy": margin_B > 0,
            "margin": margin_B,
            "chosen_reward": chosen_B,
            "rejected_reward": rejected_B,
        }
        metrics = {k: (jnp.sum(x_B * valid_B), count) for k, x_B in means.items()}
        return with_routing(outputs, total, count, metrics)

    # --- predictions -----------------------------------------------------------------

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The reward of each row's answer, the chosen one of a pair; float32 [B]."""

        def predict(variables, batch):
            scores_B1, _ = forward(model, variables, batch)
            return scores_B1[:, 0]

        return predict

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        return [{"reward": float(value)} for value in values]
