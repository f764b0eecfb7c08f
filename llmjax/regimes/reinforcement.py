"""Learning from rewards for what a model writes: GRPO, Dr. GRPO, DAPO, RLOO.

A step draws a group of answers to each of some prompts, asks Python functions for their
rewards, and learns from them once. Which prompts they are and every draw are functions
of (seed, step, row), and nothing else is kept between steps: a run that was killed goes
on to the same bits.

    def exact(prompt: str, answer: str, row: Mapping[str, Any]) -> float:
        return float(answer.strip() == row["answer"])

    run(config, "runs/sums", prompts, [exact], tokenizer=tokenizer)
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from llmjax.config import RunConfig
from llmjax.data.batches.packing import Order
from llmjax.data.batches.pipeline import Pipeline
from llmjax.infer.generate import generate
from llmjax.infer.sampling import DEFAULT, Sampling
from llmjax.models.forward import variables
from llmjax.tasks.preferences.policy import PolicyTask, advantages
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Metrics
from llmjax.train import initial, loop, setup
from llmjax.train.run import Run
from llmjax.train.setup import HostBatch, Program
from llmjax.train.state import State

Row = Mapping[str, Any]
# (prompt, answer, the prompt's row) -> how good the answer is
Reward = Callable[[str, str, Row], float]

DRAWS = 2**32 - 2  # their place among the keys of a step
GREEDY = Sampling(temperature=0.0)
NUMBERS = "prompts"  # a batch's array: the numbers of its prompts


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Batches of the numbers of prompts, shuffled in each epoch.

    Attributes:
      size: how many prompts there are.
      count: how many are in a batch.
      seed: of their order.
    """

    size: int
    count: int
    seed: int

    def batch(
        self, step: int, process_index: int = 0, process_count: int = 1
    ) -> HostBatch:
        """The prompts of a step; of one process."""
        places = range(step * self.count, (step + 1) * self.count)
        order = Order(self.size, self.seed)
        pairs = [divmod(place, self.size) for place in places]
        numbers = [order(epoch, k, k + 1)[0] for epoch, k in pairs]
        return {NUMBERS: np.array(numbers, np.int64)}

    def prefetch(
        self, start: int, stop: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[tuple[int, HostBatch]]:
        """(step, batch) from `start` to `stop`."""
        return ((step, self.batch(step)) for step in range(start, stop))

    def evaluation(
        self,
        process_index: int = 0,
        process_count: int = 1,
        max_batches: int | None = None,
    ) -> Iterator[HostBatch]:
        """All prompts once, in their order."""
        starts = range(0, self.size, self.count)
        for start in starts[:max_batches]:
            stop = min(start + self.count, self.size)
            yield {NUMBERS: np.arange(start, stop)}


@dataclasses.dataclass(frozen=True, eq=False)
class Writer:
    """A model's answers to prompts, and their rewards.

    Attributes:
      task: whose config says how many answers of what length there are.
      model: of the task.
      prompts: rows, each with a text "prompt".
      rewards: functions whose values add up.
    """

    task: PolicyTask
    model: Any
    prompts: Sequence[Row]
    rewards: Sequence[Reward]

    @functools.cached_property
    def tokens(self) -> list[np.ndarray]:
        """The tokens of each prompt.

        Raises:
          ValueError: there is none, or one is longer than fits before its answer.
        """
        vocabulary: Any = self.task.vocabulary
        texts = []
        for number, row in enumerate(self.prompts):
            if not isinstance(row.get("prompt"), str):
                raise ValueError(
                    f"row {number} has the prompt {row.get('prompt')!r}; give a text"
                )
            ids = vocabulary.encode(row["prompt"])
            if len(ids) > self.task.prompt_length:
                raise ValueError(
                    f"the prompt of row {number} has {len(ids)} tokens, and "
                    f"{self.task.prompt_length} fit before task.max_new_tokens; raise "
                    "data.seq_len, or take it out"
                )
            texts.append(ids)
        if not texts:
            raise ValueError("there are no prompts to learn from; give some rows")
        return texts

    def answers(
        self, params: Any, numbers: np.ndarray, key: jax.Array, sampling: Sampling
    ) -> list[np.ndarray]:
        """An answer to each of these prompts; row r's draw is of (key, r)."""
        bos = np.int32(self.task.vocabulary.bos_id)
        texts = [np.append(bos, self.tokens[n]) for n in numbers.tolist()]
        return generate(
            self.model,
            params,
            texts,
            max_new_tokens=self.task.config.max_new_tokens,
            sampling=sampling,
            rng=key,
            stop_tokens=self.task.vocabulary.eos_id,
        )

    def rewarded(
        self, numbers: np.ndarray, answers: Sequence[np.ndarray]
    ) -> np.ndarray:
        """The reward of each answer, float64 [B]; NaN where a function raised, or gave
        no finite number.

        Raises:
          ValueError: no answer got a reward.
        """
        decode: Any = self.task.vocabulary
        values = np.full(len(answers), np.nan)
        failure: tuple[str, Exception | None] | None = None
        for k, number in enumerate(numbers.tolist()):
            row, answer = self.prompts[number], decode.decode(answers[k])
            total = 0.0
            for reward in self.rewards:
                name, error = getattr(reward, "__name__", repr(reward)), None
                try:
                    value = float(reward(row["prompt"], answer, row))
                except Exception as e:  # of any kind: it is a user's
                    value, error = math.nan, e
                if not math.isfinite(value):
                    said = f"raised {error!r}" if error else f"gave {value}"
                    place = f"row {number} and the answer {answer[:40]!r}"
                    failure = failure or (f"{name} {said} of {place}", error)
                total += value
            values[k] = total if math.isfinite(total) else math.nan
        if failure is not None:
            said, error = failure
            failed = int(np.isnan(values).sum())
            line = f"{failed} of {len(values)} answers got no reward: {said}"
            if failed == len(values):
                raise ValueError(f"{line}; mend the reward") from error
            print(line, file=sys.stderr)
        return values


def learner(program: Program, writer: Writer, held_out: Writer | None) -> Program:
    """A program whose batches are numbers of prompts: its step draws and rewards.

    Its evaluation is the mean `reward` of the likeliest answers.

    Args:
      program: of a `PolicyTask`.
      writer: of the prompts that are learned from.
      held_out: of those that are evaluated.
    """
    task, seed = writer.task, program.config.train.seed
    group, batch_size = task.config.group, program.config.data.batch_size

    def step(state: State, batch: HostBatch) -> Any:
        number = int(state.step)
        key = jax.random.fold_in(jax.random.key(seed), number)
        numbers = np.repeat(batch[NUMBERS], group)
        params = variables(state.params, state.frozen)["params"]
        key = jax.random.fold_in(key, DRAWS)
        answers = writer.answers(params, numbers, key, DEFAULT)
        rewards_B = writer.rewarded(numbers, answers)
        rewards_PG = rewards_B.reshape(-1, group)
        better_B = advantages(task.config.loss, rewards_PG).reshape(-1)
        examples = [
            {
                "prompt": writer.tokens[n],
                "completion": answer,
                "ended": len(answer) < task.config.max_new_tokens,
                "advantage": better,
            }
            for n, answer, better in zip(numbers, answers, better_B, strict=True)
        ]
        source = task.listed(examples, task.text_length)
        data = dataclasses.replace(program.config.data, batch_sizes=(), mixture=())
        rows = next(Pipeline(source, task.features, data, task.length).evaluation())
        state, (metrics, scalars) = program.step(state, program.place(rows))
        told = _told(rewards_PG, [example["ended"] for example in examples])
        return state, ({**metrics, **told}, scalars)

    def evaluate(params: Any, frozen: Any, extra: Any, batch: HostBatch) -> Metrics:
        assert held_out is not None
        numbers = batch[NUMBERS]
        asked = np.resize(numbers, batch_size // group)  # one shape is compiled
        whole, key = variables(params, frozen)["params"], jax.random.key(0)
        answers = held_out.answers(whole, asked, key, GREEDY)[: len(numbers)]
        values = held_out.rewarded(numbers, answers)
        lengths = [len(answer) for answer in answers]
        return {
            "reward": _mean(values[~np.isnan(values)]),
            "reward_errors": _mean(np.isnan(values)),
            "tokens": _mean(np.array(lengths)),
        }

    return dataclasses.replace(
        program, step=step, evaluate=evaluate, place=lambda rows: rows
    )


def _told(rewards_PG: np.ndarray, ended: Sequence[bool]) -> Metrics:
    """Metrics of a step's rewards.

    `reward`; `equal_groups`, the share of prompts whose answers teach nothing as their
    rewards are equal; `reward_errors`, the share of answers without one; and `ended`,
    the share of answers that came to an end.
    """
    scored_PG = ~np.isnan(rewards_PG)
    low_P = np.where(scored_PG, rewards_PG, np.inf).min(axis=1)
    high_P = np.where(scored_PG, rewards_PG, -np.inf).max(axis=1)
    return {
        "reward": _mean(rewards_PG[scored_PG]),
        "equal_groups": _mean(high_P <= low_P),
        "reward_errors": _mean(~scored_PG),
        "ended": _mean(np.array(ended)),
    }


def _mean(values: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Sum and count."""
    return jnp.float32(values.sum()), jnp.float32(values.size)


def run(
    config: RunConfig,
    workdir: epath.PathLike,
    prompts: Sequence[Row],
    rewards: Sequence[Reward],
    *,
    tokenizer: Any,
    held_out: Sequence[Row] = (),
    progress: bool = True,
) -> Run:
    """Trains as `config` says, going on from what `workdir` holds.

    Args:
      config: of a run whose task is `Reinforcement`; `data.batch_size` is the number of
        answers of an update.
      workdir: of metrics, checkpoints and the config.
      prompts: rows, each with a text "prompt" and what the rewards read.
      rewards: functions (prompt, answer, row) -> number, which add up.
      tokenizer: of the model.
      held_out: prompts whose likeliest answers are evaluated; (): none.
      progress: show a bar.

    Raises:
      ValueError: something does not fit, or no answer of a step got a reward.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"answers are drawn by one process, and there are {jax.process_count()}; "
            "start one, over as many devices as it has"
        )
    config = initial.complete(config, workdir, corpus=False)
    task = make_task(config, tokenizer)
    if not isinstance(task, PolicyTask):
        raise ValueError(
            f"task.kind={config.task.kind!r} does not learn from rewards; set it to "
            "'reinforcement'"
        )
    if not rewards:
        raise ValueError("there are no rewards; give at least one function")
    initial.check_tokenizer(config, task, workdir)
    example = task.example_batch(config.data.batch_size)
    program = setup.build(config, task, example)
    writers = [Writer(task, program.model, p, rewards) for p in (prompts, held_out)]
    count, seed = config.data.batch_size // task.config.group, config.data.shuffle_seed
    sources = [Prompts(len(p), count, seed) for p in (prompts, held_out)]
    for writer in writers[: 2 if held_out else 1]:
        assert writer.tokens  # long prompts are named before anything is traced
    evaluated = writers[1] if held_out else None
    program = learner(program, writers[0], evaluated)
    state, result = loop.fit(
        program,
        sources[0],
        sources[1] if held_out else None,
        workdir,
        progress=progress,
    )
    return Run(state, program, result)
