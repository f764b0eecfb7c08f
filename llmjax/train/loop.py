"""The loop: batches in, metrics out, checkpoints and evaluations on the way."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax
from etils import epath
from jax.experimental import multihost_utils

from llmjax.config import Checkpoint, RunConfig
from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel import pipeline
from llmjax.parallel.processes import distributed
from llmjax.train import lock
from llmjax.train.checkpoints import resume, weights
from llmjax.train.checkpoints.best import Best
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.metrics import flops
from llmjax.train.metrics.evaluation import evaluate, predictions
from llmjax.train.metrics.finite import NotFiniteError
from llmjax.train.metrics.log import Log
from llmjax.train.optimizers import optimizers
from llmjax.train.setup import Batches, Program
from llmjax.train.state import State

Watch = Callable[[int, Mapping[str, float]], None]


def fit(
    program: Program,
    train: Batches,
    evaluation: Batches | None,
    workdir: epath.PathLike,
    *,
    profile: tuple[int, int] | None = None,
    progress: bool = True,
    watch: Watch | None = None,
) -> tuple[State, dict[str, Any]]:
    """Trains to `train.steps`, from the workdir's latest checkpoint if it has one.

    SIGTERM, to any of the run's processes, saves and returns early; the same call then
    goes on.

    Args:
      program: from `setup.build`.
      train, evaluation: the batches; without the second nothing is evaluated.
      workdir: of metrics, checkpoints and the config; a local path or a bucket.
      profile: trace the steps from the first to the second of these into
        `<workdir>/profile`.
      progress: show a bar.
      watch: called with step and metrics of each evaluation after the first step; what
        it raises ends the run, which its last checkpoint goes on from.

    Returns:
      The last state, and what `result.json` holds.

    Raises:
      ValueError: the workdir holds another run, one that is still going on, or a
        checkpoint or metrics that can't be read.
      NotFiniteError: names the step, and that of the last checkpoint.
      OSError: the disk is full or can't be written; names the step that was not saved.
    """
    config = program.config
    if evaluation is None and config.train.patience is not None:
        raise ValueError(
            f"config key 'train.patience' is {config.train.patience} and nothing is "
            "evaluated; give evaluation batches, or set it to None"
        )
    directory = epath.Path(workdir).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    with (
        lock.held(directory),
        contextlib.closing(Checkpoints(directory, config)) as checkpoints,
    ):
        if config.train.damaged == "set_aside":
            checkpoints.set_aside_damaged()
        resumed = checkpoints.latest_step is not None
        best = checkpoints.best() if resumed else Best()
        run = checkpoints.run() if resumed else {}
        saved, latest = run.get("config"), checkpoints.latest_step
        resume.save_or_check_config(config, directory, saved, latest)
        weights.keep_tokenizer_of(program.task, directory)
        state = _start(program, checkpoints)
        rows = run.get("metrics_file")
        log = Log(config, directory, int(state.step), progress, rows)
        _report_bubble(program)
        with _sigterm() as terminated, mesh_lib.use(program.mesh), log:
            if not resumed and evaluation is not None:
                log.evaluating()
                metrics = _evaluate(program, state, evaluation)
                _check_best_metric(config, metrics)
                log.evaluated(0, metrics)
            state, best = _train(
                program,
                state,
                best,
                train,
                evaluation,
                checkpoints,
                log,
                _Trace(profile, directory),
                terminated,
                watch,
            )
    return state, _result(program, state, best, log)


def _result(program: Program, state: State, best: Best, log: Log) -> dict[str, Any]:
    """The content of `result.json`."""
    config = program.config
    early = best.exhausted(config.train)
    result = {
        "step": int(state.step),
        "finished": early or int(state.step) == config.train.steps,
        "stopped_early": early,
        "parameters": _size(state.params) + _size(state.frozen.get("params", {})),
        "trained_parameters": _size(state.params),
        "peak_memory_bytes": flops.peak_memory_bytes(),
        **log.summary(),
    }
    if best.value is not None:
        metric = config.train.best_metric
        result["best"] = {"step": best.step, "metric": metric, "value": best.value}
    return result


def _size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _report_bubble(program: Program) -> None:
    """Prints the share of time that a pipeline's stages idle."""
    stages = program.mesh.shape[pipeline.AXIS]
    if stages == 1 or not distributed.is_leader():
        return
    plan = pipeline.circular_schedule(program.config.layout, stages)
    share = pipeline.bubble_share(stages, plan.microbatches, plan.rounds)
    print(
        f"pipeline: {stages} stages idle {share:.1%} of their time, with "
        f"{plan.microbatches} microbatches and {plan.rounds} rounds"
    )


class _Trace:
    """A profiler trace from one step to another; none without `steps`."""

    def __init__(self, steps: tuple[int, int] | None, directory: epath.Path):
        self.steps, self.directory, self.running = steps, directory, False

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: Any) -> None:
        if self.running:
            jax.block_until_ready(jax.live_arrays())
            jax.profiler.stop_trace()
            self.running = False

    @contextlib.contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Around `step`."""
        if self.steps and step == self.steps[0]:
            jax.profiler.start_trace(str(self.directory / "profile"))
            self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if self.steps and step == self.steps[1]:
            self.__exit__()


def _train(
    program: Program,
    state: State,
    best: Best,
    train: Batches,
    evaluation: Batches | None,
    checkpoints: Checkpoints,
    log: Log,
    trace: _Trace,
    terminated: Callable[[int], bool],
    watch: Watch | None,
) -> tuple[State, Best]:
    config = program.config.train
    own = distributed.share(program.mesh)
    end = int(state.step) if best.exhausted(config) else config.steps
    with trace:
        for step, rows in train.prefetch(int(state.step), end, *own):
            with trace.at(step):
                state, out = program.step(state, program.place(rows))
            log.stepped(step + 1, out)  # reads the step before: nothing waits for this
            now = step + 1
            done = now == config.steps
            metrics = None
            if evaluation is not None and (now % config.eval_every == 0 or done):
                log.flush()
                log.evaluating()
                metrics = _evaluate(program, state, evaluation)
                log.evaluated(now, metrics)
                best = best.after(now, metrics[config.best_metric], config)
                if watch is not None:
                    watch(now, metrics)
            early = best.exhausted(config)
            last = terminated(now) or done or early
            if now % config.checkpoint_every == 0 or last:
                log.flush()
                _check_finite(state, now, log)  # or the last good checkpoint would go
                checkpoints.save(state, metrics, best, log.account())
                log.saved_step = now
            if early and distributed.is_leader():
                print(best.report(now, config))
            if last:
                break
    return state, best


def _check_finite(state: State, step: int, log: Log) -> None:
    norm = float(jax.jit(optax.tree.norm)(state.params))
    if not math.isfinite(norm):
        raise NotFiniteError(
            f"step {step}: the weights' norm is {norm}; {log.last_checkpoint()}: "
            "lower optimizer.learning_rate"
        )


def _check_best_metric(config: RunConfig, metrics: dict[str, float]) -> None:
    if config.train.best_metric not in metrics:
        raise ValueError(
            f"config key 'train.best_metric' is {config.train.best_metric!r}; the "
            f"evaluation gives {', '.join(map(repr, metrics))}"
        )


def _evaluate(program: Program, state: State, batches: Batches) -> dict[str, float]:
    # with the averaged weights where the optimizer keeps an average
    params = optimizers.averaged(state.opt_state, state.params)
    try:
        metrics = evaluate(program, params, batches, state.frozen, state.extra)
    except NotFiniteError as e:
        raise NotFiniteError(f"step {int(state.step)}: {e}") from None
    if program.config.train.best_metric in metrics or not program.task.labels:
        return metrics
    # no sum over examples: it needs their predictions
    values = predictions(program, params, batches, state.frozen)
    report = program.task.report(values, getattr(batches, "sources", ()))
    numbers = {k: v for k, v in report.items() if isinstance(v, float)}
    return numbers | metrics


def _start(program: Program, checkpoints: Checkpoints) -> State:
    if checkpoints.latest_step is not None:
        if distributed.is_leader():
            print(_going_on(program.config, checkpoints), flush=True)
        frozen = {name: tree.values for name, tree in program.frozen.items()}
        return checkpoints.restore(program.restorable(), frozen=frozen)
    state, report = begin(program)
    if report and distributed.is_leader():
        print(report)
    return state


def begin(program: Program) -> tuple[State, str]:
    """The state that a run begins with, and what became of the weights at `init.path`
    ("": it has none)."""
    init, report = program.config.init, ""
    state = program.init()
    if isinstance(init, Checkpoint):
        task = program.config.task
        labels = getattr(task, "labels", ())  # names of classes, if it has some
        parts = program.shardings, program.axes
        model = program.config.model
        state, report = resume.load_initial(state, *parts, init, model, labels)
        state = program.with_params(state, state.params)
    return program.begun(state), report


def _going_on(config: RunConfig, checkpoints: Checkpoints) -> str:
    """A line that says from where a run goes on, or that it is finished."""
    step, steps = checkpoints.latest_step, config.train.steps
    assert step is not None
    if step == steps:
        return (
            f"this run is finished, step {step:,} of {steps:,}; more steps extend it: "
            f"--config.train.steps={2 * steps}"
        )
    best = checkpoints.best()
    if best.exhausted(config.train):
        return f"{best.report(step, config.train)}; a larger train.patience goes on"
    return f"going on from step {step:,} of {steps:,}"


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
    """(step) -> whether to end after it because of SIGTERM; alike in all processes."""
    if jax.process_count() > 1:  # jax has a handler of its own, and tells the others
        yield multihost_utils.reached_preemption_sync_point
        return
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda _: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield lambda _: event.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
