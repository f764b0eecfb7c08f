"""Trials one after another, kept in a database: resumed, pruned, reported."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from experiments.search.space import Space
from llmjax.config import wording
from llmjax.train.metrics.finite import NotFiniteError

FILE, NAME = "study.db", "search"
INSTALL = "the search needs optuna; pip install 'llmjax[search]'"

# (step, metrics of an evaluation) -> None; what it raises ends the run
Watch = Callable[[int, Mapping[str, float]], None]
# (values of the space, folder, watch) -> the best value; None: SIGTERM ended it early
Objective = Callable[[Mapping[str, Any], epath.Path, Watch], float | None]


@dataclasses.dataclass(frozen=True)
class Search:
    """What a study is made of.

    Attributes:
      folder: of the database and of `trials/NNNN`.
      space: key of the config -> its values.
      metric, mode: `train.best_metric` and `train.best_mode`.
      seed: of the draws; of a search that goes on others follow than if it had not been
        stopped.
      prune: whether a trial ends whose evaluations are worse than the median trial's.
      startup: trials before that, drawn at random.
    """

    folder: epath.Path
    space: Space
    metric: str
    mode: str
    seed: int = 0
    prune: bool = True
    startup: int = 5

    def open(self) -> Any:
        """The study in the folder's database, new or to go on.

        Raises:
          ValueError: optuna is not installed, or the database is of another search.
        """
        optuna = library()
        self.folder.mkdir(parents=True, exist_ok=True)
        direction = "maximize" if self.mode == "max" else "minimize"
        pruner = optuna.pruners.MedianPruner(n_startup_trials=self.startup)
        storage = f"sqlite:///{self.folder / FILE}"
        done = len(optuna.study.get_all_study_names(storage)) and len(
            optuna.load_study(study_name=NAME, storage=storage).trials
        )
        study = optuna.create_study(
            storage=storage,
            study_name=NAME,
            direction=direction,
            # the same seed again would draw the same trials again
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=self.startup, seed=self.seed + done
            ),
            pruner=pruner if self.prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        own = {"metric": self.metric, "mode": self.mode, "space": described(self.space)}
        for name, value in own.items():
            before = study.user_attrs.setdefault(name, value)
            if before != value:
                raise ValueError(
                    f"{self.folder} holds a search with {name} {before} and this one "
                    f"has {value}; set it back, or give another --workdir"
                )
            study.set_user_attr(name, value)
        return study


def library() -> Any:
    """The module optuna, which only says what is wrong.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise ValueError(INSTALL) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def described(space: Space) -> dict[str, Any]:
    """The space as JSON keeps it."""
    plain = {key: dataclasses.asdict(values) for key, values in space.items()}
    return {
        key: {n: list(v) if isinstance(v, tuple) else v for n, v in fields.items()}
        for key, fields in plain.items()
    }


def search(settings: Search, trials: int, objective: Objective) -> dict[str, Any]:
    """Runs trials until there are `trials`; the report of all of them.

    A trial that was running when a search was stopped goes on in its own folder, from
    its last checkpoint. One that fails is told with its error, and the others follow.

    Raises:
      ValueError: see `Search.open`.
    """
    optuna, study = library(), settings.open()
    states = optuna.trial.TrialState
    running = [t for t in study.trials if t.state == states.RUNNING]
    finished = True
    while finished and (running or len(study.trials) < trials):
        if running:
            trial = optuna.trial.Trial(study, running.pop(0)._trial_id)
        else:
            trial = study.ask()
        finished = _tried(settings, study, trial, objective)
    return report(settings, study) | {"finished": finished}


def _tried(settings: Search, study: Any, trial: Any, objective: Objective) -> bool:
    """Whether a trial came to an end; tells the study how."""
    optuna = library()
    states = optuna.trial.TrialState
    values = {key: s.draw(trial, key) for key, s in settings.space.items()}
    folder = settings.folder / "trials" / f"{trial.number:04d}"

    def watch(step: int, metrics: Mapping[str, float]) -> None:
        with warnings.catch_warnings():  # of a step that a resumed trial tells again
            warnings.simplefilter("ignore")
            trial.report(metrics[settings.metric], step)
        if trial.should_prune():
            raise optuna.TrialPruned

    state, value, note = states.COMPLETE, None, ""
    try:
        value = objective(values, folder, watch)
        if value is None:
            return False
    except optuna.TrialPruned:
        state, note = states.PRUNED, "worse than the median"
    except (ValueError, OSError, NotFiniteError) as e:
        state, note = states.FAIL, " ".join(str(e).split())
    if note:
        trial.set_user_attr("note", note)
    study.tell(trial, value, state=state)
    print(line(study.trials[trial.number]), flush=True)
    return True


def line(trial: Any) -> str:
    """A finished trial in a line."""
    value = f" {wording.number(trial.value)}" if trial.value is not None else ""
    note = f" ({trial.user_attrs['note']})" if "note" in trial.user_attrs else ""
    values = ", ".join(f"{k}={_shown(v)}" for k, v in trial.params.items())
    return f"trial {trial.number}: {trial.state.name.lower()}{value}{note}; {values}"


def report(settings: Search, study: Any) -> dict[str, Any]:
    """All trials, and the best of those that ran to their end."""
    rows = [
        {
            "number": t.number,
            "state": t.state.name.lower(),
            "value": t.value,
            "evaluations": len(t.intermediate_values),
            "note": t.user_attrs.get("note", ""),
            "values": dict(t.params),
        }
        for t in study.trials
    ]
    whole = [row for row in rows if row["state"] == "complete"]
    sign = -1 if settings.mode == "max" else 1
    best = min(whole, key=lambda row: sign * row["value"], default=None)
    out: dict[str, Any] = {"metric": settings.metric, "trials": rows}
    if best is not None:
        folder = settings.folder / "trials" / f"{best['number']:04d}"
        out["best"] = {**best, "folder": str(folder)}
    return out


def table(result: Mapping[str, Any]) -> str:
    """All trials as a Markdown table, and the best with the flags that repeat it."""
    names = list(dict.fromkeys(k for row in result["trials"] for k in row["values"]))
    ends = [name.rpartition(".")[2] for name in names]
    short = ends if len({*ends}) == len(ends) else names
    lines = [
        f"| trial | state | {result['metric']} | {' | '.join(short)} | |",
        "|---|---|---|" + "---|" * (len(names) + 1),
    ]
    for row in result["trials"]:
        value = "" if row["value"] is None else wording.number(row["value"])
        values = " | ".join(_shown(row["values"].get(name, "")) for name in names)
        lines.append(
            f"| {row['number']} | {row['state']} | {value} | {values} | {row['note']} |"
        )
    best = result.get("best")
    if best is None:
        return "\n".join([*lines, "", "no trial ran to its end"])
    flags = " ".join(f"--config.{k}={v}" for k, v in best["values"].items())
    return "\n".join(
        [*lines, "", f"best: trial {best['number']}, {best['folder']}", flags]
    )


def _shown(value: Any) -> str:
    number = isinstance(value, float)
    return wording.number(value) if number else str(value)
