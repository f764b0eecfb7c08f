"""Learning from preferences: a language model that prefers what people prefer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import KTO, DataConfig
from llmjax.data.prepare import labelled as columns
from llmjax.data.prepare import preferences
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import REFERENCE
from llmjax.tasks.objectives.language import token_weights
from llmjax.tasks.preferences import losses, rows, talks
from llmjax.tasks.preferences.answers import AnswerTask
from llmjax.tasks.preferences.losses import Answers
from llmjax.tasks.preferences.rows import OTHER
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import Batch, Metrics, Outputs, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class PreferenceTask(AnswerTask):
    """A language model and the log-likelihoods of answers, chosen and rejected ones,
    or good and bad ones (KTO).

    Where the loss is of log ratios, the reference is the model as the run began: the
    collection `reference` of its variables, which is given no gradient and read without
    dropout.
    """

    answer_columns = ("log_likelihood", "tokens")

    @property
    def needs_reference(self) -> bool:
        ratios = losses.needs_reference(self.config.loss)
        return ratios and self.config.reference == "weights"

    @property
    def _given(self) -> bool:
        """Whether examples have the log-likelihoods by the reference."""
        ratios = losses.needs_reference(self.config.loss)
        return ratios and self.config.reference in ("records", "stored")

    @property
    def _pairs(self) -> bool:
        return not isinstance(self.config.loss, KTO)

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        if isinstance(task.loss, KTO):
            there = {column.lower() for column in columns.columns_of(data)}
            if not there or there.intersection(columns.COMPLETIONS):
                names = task.prompt_field, task.completion_field, task.label_field
                return columns.with_judged(data, *names, said=said)
        names = task.prompt_field, task.chosen_field, task.rejected_field
        numbers: tuple[str, ...] = ()
        if task.reference == "records":
            numbers = task.chosen_reference_field, task.rejected_reference_field
        return preferences.with_pairs(data, *names, numbers, said=said)

    def check(self) -> None:
        """Raises ValueError too for KTO in microbatches, or of single rows."""
        super().check()
        k, size = self.run.layout.microbatches, self.run.data.batch_size
        if not self._pairs and k > 1:
            raise ValueError(
                "the loss 'kto' estimates the divergence from its reference over the "
                f"whole batch, and layout.microbatches={k} would do it over parts; set "
                "it to 1 and, for memory, layout.remat or more devices"
            )
        if not self._pairs and size < 2:
            raise ValueError(
                f"the loss 'kto' puts each answer behind the prompt of another row, "
                f"and data.batch_size={size}; set it to 2 or more"
            )

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The rows of a split; see `Split` and `talks`."""
        config, there = self.config, corpus.schema.fields
        if self._pairs:
            numbers = {}
            if config.reference == "records" and self._given:
                numbers["chosen_reference"] = config.chosen_reference_field
                numbers["rejected_reference"] = config.rejected_reference_field
            pairs = self.pairs(corpus, split, numbers)
            if not self._given or numbers:
                return pairs
            values = np.full((len(pairs), 2), np.nan, np.float32)
            return rows.Referenced(pairs, values)
        if talks.are_messages(there, self.pair_fields):
            return talks.unpaired(self.pairs(corpus, split, {}))
        records = self.split(corpus, split)
        if config.completion_field not in there and config.chosen_field in there:
            return records.unpaired(self.pair_fields)
        names = config.prompt_field, config.completion_field, config.label_field
        return records.judged(*names)

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens`, `targets` and `weights` of the chosen or the only answer, under
        `other_` those of the rejected one; of judged answers the scalar `label`, and
        of pairs that have them the log-likelihoods `reference`."""
        prompt, room = example["prompt"], self.run.data.seq_len
        if "completion" not in example:
            whole = bool(example.get(talks.WHOLE))
            chosen, rejected = (
                rows.answered(
                    self.vocabulary,
                    prompt,
                    example[name],
                    room,
                    begun=whole,
                    ended=not whole,
                )
                for name in rows.BOTH
            )
            if self._given:
                chosen["reference"] = np.asarray(
                    example["chosen_reference"], np.float32
                )
                rejected["reference"] = np.asarray(
                    example["rejected_reference"], np.float32
                )
            return chosen | {OTHER + k: v for k, v in rejected.items()}
        whole = bool(example.get(talks.WHOLE))
        made = rows.answered(
            self.vocabulary,
            prompt,
            example["completion"],
            room,
            begun=whole,
            ended=not whole,
        )
        if "label" in example:
            made["label"] = np.asarray(example["label"], np.int32)
        return made

    def length(self, num_tokens: int) -> int:
        return num_tokens + 1

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        texts = self.random_texts(3 * rows)
        examples: list[dict[str, Any]]
        if self._pairs:
            names = ("prompt", "chosen", "rejected")
            triples = zip(texts[::3], texts[1::3], texts[2::3], strict=True)
            examples = [dict(zip(names, t, strict=True)) for t in triples]
            if self._given:
                given = {"chosen_reference": -1.0, "rejected_reference": -1.0}
                examples = [example | given for example in examples]
        else:
            both = zip(texts[::3], texts[1::3], strict=True)
            examples = [
                {"prompt": prompt, "completion": answer, "label": k % 2}
                for k, (prompt, answer) in enumerate(both)
            ]
        return self.full_batch(self.listed(examples, self.text_length), rows)

    # --- model and loss --------------------------------------------------------------

    def outputs(self, model: nn.Module) -> Outputs:
        """The log-likelihoods of all answers: `Answers` of a pair's two, or of the
        answers and of those behind other prompts."""
        if self._pairs:
            return self._of_pairs(model)
        return self._of_answers(model)

    def _of_pairs(self, model: nn.Module) -> Outputs:
        def outputs(variables, batch, rng):
            both = rows.interleaved(batch)
            made = routed(model, "outputs")(_own(variables), both, rng)
            answers = self._answers(made.head, both)
            if self.needs_reference:
                answers = self._with_reference(answers, model, variables, both)
            elif self._given:
                answers = dataclasses.replace(answers, reference_B=both["reference"])
            chosen, rejected = (
                jax.tree.map(lambda x, k=k: rows.divided(x)[k], answers) for k in (0, 1)
            )
            return Routed((chosen, rejected), made.router_loss)

        return outputs

    def _of_answers(self, model: nn.Module) -> Outputs:
        def outputs(variables, batch, rng):
            made = routed(model, "outputs")(_own(variables), batch, rng)
            answers = self._answers(made.head, batch)
            answers = self._with_reference(answers, model, variables, batch)
            other = rows.mismatched(batch)
            fixed = jax.lax.stop_gradient(_own(variables))
            far = routed(model, "outputs")(fixed, other, rng)
            apart = self._answers(far.head, other)
            apart = self._with_reference(apart, model, variables, other)
            return Routed((answers, apart), made.router_loss)

        return outputs

    def _answers(self, outputs: Any, batch: Batch) -> Answers:
        """Log-likelihoods of the answers of rows."""
        likelihood_BT = self.token_likelihoods(outputs, batch)
        weights_BT = token_weights(batch)
        real_BT = batch["segment_ids"] > 0
        return Answers(
            jnp.sum(likelihood_BT * weights_BT, axis=1),
            jnp.sum(weights_BT, axis=1),
            row_B=jnp.sum(likelihood_BT * real_BT, axis=1)
            / jnp.maximum(jnp.sum(real_BT, axis=1), 1),
        )

    def _with_reference(
        self, answers: Answers, model: nn.Module, variables: Variables, batch: Batch
    ) -> Answers:
        """Answers with their log-likelihoods by the reference, without dropout."""
        reference = jax.lax.stop_gradient({"params": variables[REFERENCE]})
        made = routed(model, "outputs")(reference, batch, None)
        likelihood_B = self._answers(made.head, batch).likelihood_B
        return dataclasses.replace(answers, reference_B=likelihood_B)

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics per pair: `loss`, `accuracy` (the chosen answer's reward is the
        higher), `margin` between the rewards, and of both answers the reward, the log-
        likelihood in nats, and the predicted tokens. KTO's are per answer: `accuracy`
        is that of rewards above the baseline `kl`."""
        valid_B = batch["valid"].astype(jnp.float32)
        count = jnp.sum(valid_B)
        if self._pairs:
            loss_B, means = self._score_pairs(*outputs.head)
            weights = dict[str, jax.Array]()
        else:
            answers, apart = outputs.head
            loss_B, means, weights = self._score_answers(answers, apart, batch)
        total = jnp.sum(loss_B * valid_B)
        metrics: Metrics = {"loss": (total, count)}
        for name, value_B in means.items():
            weight_B = valid_B * weights.get(name, 1.0)
            metrics[name] = jnp.sum(value_B * weight_B), jnp.sum(weight_B)
        return with_routing(outputs, total, count, metrics)

    def _score_pairs(
        self, chosen: Answers, rejected: Answers
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        made = losses.compare(self.config.loss, chosen, rejected)
        means = {
            "accuracy": (made.chosen_B > made.rejected_B).astype(jnp.float32),
            "margin": made.chosen_B - made.rejected_B,
            "chosen_reward": made.chosen_B,
            "rejected_reward": made.rejected_B,
            "chosen_likelihood": chosen.likelihood_B,
            "rejected_likelihood": rejected.likelihood_B,
            "chosen_tokens": chosen.tokens_B,
            "rejected_tokens": rejected.tokens_B,
            **made.parts,
        }
        return made.loss_B, means

    def _score_answers(
        self, answers: Answers, apart: Answers, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        loss, valid_B = self.config.loss, batch["valid"].astype(jnp.float32)
        good_B = batch["label"].astype(jnp.float32)
        made = losses.judge(loss, answers, apart, good_B, valid_B)
        above_B = made.reward_B > loss.beta * made.kl
        means = {
            "accuracy": (above_B == (good_B > 0)).astype(jnp.float32),
            "kl": jnp.broadcast_to(made.kl, made.loss_B.shape),
        }
        weights = dict[str, jax.Array]()
        for side, weight_B in (("chosen", good_B), ("rejected", 1 - good_B)):
            values = {
                f"{side}_reward": made.reward_B,
                f"{side}_likelihood": answers.likelihood_B,
                f"{side}_tokens": answers.tokens_B,
            }
            means |= values
            weights |= dict.fromkeys(values, weight_B)
        return made.loss_B, means, weights

    # --- predictions -----------------------------------------------------------------

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """Of each row's answer, the chosen one of a pair: the log-likelihood in nats,
        <eos> included, and the tokens that it is of; float32 [B] each."""

        def predict(variables, batch):
            made = routed(model, "outputs")(_own(variables), batch, None)
            answers = self._answers(made.head, batch)
            return {
                "log_likelihood": answers.likelihood_B,
                "tokens": answers.tokens_B,
            }

        return predict

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        both = zip(values["log_likelihood"], values["tokens"], strict=True)
        return [{"log_likelihood": float(p), "tokens": int(n)} for p, n in both]


def _own(variables: Variables) -> Variables:
    """The variables of the model itself."""
    return {"params": variables["params"]}
