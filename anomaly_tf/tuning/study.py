"""The trials of a search: Optuna chooses their values, and its journal keeps them.

Optuna is an optional package (requirements-search.txt) and imported when it is needed. It draws by
the tree-structured Parzen estimator: J. Bergstra, R. Bardenet, Y. Bengio, B. Kegl, Algorithms for
Hyper-Parameter Optimization, NeurIPS 2011. With several trials under way, those without a result
count as bad ones (constant liar), so that the values of the next one are others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_tf.errors import UserError
from anomaly_tf.runs.outputs import SEARCH
from anomaly_tf.tuning.space import Choices, Range, Space, as_text, combinations

if TYPE_CHECKING:
    import optuna

# Trials of values at random before values are drawn by what the finished ones have shown.
RANDOM_TRIALS = 10
# Draws by Optuna's estimate; if all gave values that were tried, further ones are at random.
DRAWS = 10
# Trees of the random forest of fANOVA, and the fewest trials for which it is computed.
TREES, MIN_TRIALS = 64, 5


@dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        number: Its number, from 0, the trial of the default options.
        values: Name of each searched option to its value.
        measure: What was measured on the validation images; None if it has no result.
        reason: Why the training refused these values; None if it did not.
        facts: What is kept with the result, such as the duration.
    """

    number: int
    values: dict[str, Any]
    measure: float | None
    reason: str | None
    facts: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        """False if it is under way, or has to be tried again."""
        return self.measure is not None or self.reason is not None


def require_optuna() -> None:
    """Refuses to begin without the package that draws the values.

    Raises:
        UserError: If Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"search needs the package optuna ({error}); python -m pip install "
            "-r requirements-search.txt, or the extra search"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """The trials of a search in a file, which only one process may open at a time.

    Args:
        path: The file, Optuna's journal; it need not exist.
        space: The options that are searched.
        defaults: Their values in the first trial.
        seed: Seed of the draws. The values of a trial depend on it and on the trials that were
            finished or under way at the draw, and not on whether the search was stopped between.

    Raises:
        UserError: If the file is damaged.
    """

    def __init__(self, path: Path, space: Space, defaults: Mapping[str, Any], seed: int) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        self._space, self._defaults, self._seed = space, dict(defaults), seed
        self._distributions = {name: _distribution(values) for name, values in space.items()}
        # What a process left that was killed while it wrote.
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        _end_with_a_line(path)
        try:
            self._storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                storage=self._storage, study_name=SEARCH, direction="maximize", load_if_exists=True
            )
            self._trials = [self._read(trial) for trial in self._study.get_trials()]
        except (ValueError, KeyError, TypeError, AssertionError, LookupError) as error:
            raise UserError(
                f"{path} is damaged ({' '.join(str(error).split())}); choose another --output"
            ) from error

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return list(self._trials)

    def begin(self) -> Trial | None:
        """Draws the values of a further trial and keeps them; the first has the defaults.

        Returns:
            The trial; None if all combinations of values were tried.
        """
        import optuna

        number = len(self._trials)
        values = self._drawn(number) if number else self._defaults
        if values is None:
            return None
        names = self._within(values)
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params={name: self._internal(name, values[name]) for name in names},
                distributions={name: self._distributions[name] for name in names},
            )
        )
        self._trials.append(Trial(number, values, None, None, {}))
        return self._trials[-1]

    def finish(
        self,
        number: int,
        measure: float | None = None,
        reason: str | None = None,
        **facts: Any,
    ) -> Trial:
        """Keeps the result of a trial.

        Args:
            number: Its number.
            measure: What was measured on the validation images, if it was trained.
            reason: Why the training refused its values, otherwise.
            facts: What else to keep, of the types of JSON.
        """
        import optuna

        study = self._storage.get_study_id_from_name(SEARCH)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        kept = facts if reason is None else facts | {"reason": reason}
        for name, value in kept.items():
            self._storage.set_trial_user_attr(trial, name, value)
        state = optuna.trial.TrialState
        self._study.tell(number, measure, state.FAIL if measure is None else state.COMPLETE)
        self._trials[number] = Trial(number, self._trials[number].values, measure, reason, facts)
        return self._trials[number]

    def importances(self) -> dict[str, float]:
        """Share of each option in the variance of the measure over the space, largest first.

        By fANOVA: F. Hutter, H. Hoos, K. Leyton-Brown, An Efficient Approach for Assessing
        Hyperparameter Importance, ICML 2014; normalised to a sum of 1. Empty with fewer than
        `MIN_TRIALS` results, or if all results are equal.
        """
        import optuna

        done = [trial for trial in self._trials if trial.measure is not None]
        done = [trial for trial in done if len(self._within(trial.values)) == len(self._space)]
        if len(done) < MIN_TRIALS or len({trial.measure for trial in done}) == 1:
            return {}
        study = self._copy(done)
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=self._seed)
        found = evaluator.evaluate(study, params=list(self._space))
        total = sum(found.values())
        return {name: value / total for name, value in found.items()} if total > 0 else {}

    def _read(self, stored: optuna.trial.FrozenTrial) -> Trial:
        """A trial of the journal."""
        values = self._defaults
        if stored.number:
            values = {name: self._external(name, value) for name, value in stored.params.items()}
            values = {name: values[name] for name in self._space}
        facts = dict(stored.user_attrs)
        reason = facts.pop("reason", None)
        if not stored.state.is_finished():
            return Trial(stored.number, values, None, None, {})
        return Trial(stored.number, values, stored.value, reason, facts)

    def _drawn(self, number: int) -> dict[str, Any] | None:
        """Values that were not tried; None if there are no others."""
        import optuna

        tried = {_key(trial.values) for trial in self._trials}
        inside = [t for t in self._trials if len(self._within(t.values)) == len(self._space)]
        if len({_key(trial.values) for trial in inside}) >= combinations(self._space):
            return None
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        study = self._copy(inside)
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=RANDOM_TRIALS, constant_liar=True, seed=seed
        )
        draws = 0
        while True:
            drawn = study.ask(self._distributions).params
            values = {name: self._external(name, drawn[name]) for name in self._space}
            if _key(values) not in tried:
                return values
            draws += 1
            if draws == DRAWS:
                study.sampler = optuna.samplers.RandomSampler(seed)

    def _copy(self, trials: Iterable[Trial]) -> optuna.Study:
        """A study in memory with some trials of this space."""
        import optuna

        state = optuna.trial.TrialState
        study = optuna.create_study(direction="maximize")
        for trial in trials:
            finished = state.FAIL if trial.measure is None else state.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    state=finished if trial.is_finished else state.RUNNING,
                    value=trial.measure,
                    params={n: self._internal(n, value) for n, value in trial.values.items()},
                    distributions=self._distributions,
                )
            )
        return study

    def _within(self, values: Mapping[str, Any]) -> list[str]:
        """Names of the options whose value is in the space, if all are; else none.

        The defaults may be outside: they are compared with, and no draw depends on them.
        """
        inside = all(_contains(self._space[name], value) for name, value in values.items())
        return list(values) if inside else []

    def _internal(self, name: str, value: Any) -> Any:
        """A value as Optuna has it: of choices, the text."""
        return as_text(value) if isinstance(self._space[name], Choices) else value

    def _external(self, name: str, value: Any) -> Any:
        values = self._space[name]
        return values.values[value] if isinstance(values, Choices) else value


def _distribution(values: Range | Choices) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if isinstance(values, Choices):
        return distributions.CategoricalDistribution(list(values.values))
    low, high, log = values.low, values.high, values.log
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log, 1 if log else int(values.step or 1))
    return distributions.FloatDistribution(low, high, log, values.step)


def _contains(values: Range | Choices, value: Any) -> bool:
    """True if a value is one of those that may be tried."""
    if isinstance(values, Choices):
        return as_text(value) in values.values
    if value is None or isinstance(value, (str, tuple)) or not values.low <= value <= values.high:
        return False
    if values.step is None:
        return True
    steps = (value - values.low) / values.step
    return abs(steps - round(steps)) < 1e-8


def _key(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What two trials of the same values have in common."""
    return tuple(f"{name}={as_text(values[name])}" for name in sorted(values))


def _end_with_a_line(path: Path) -> None:
    """Removes the part of a line with which a file ends whose writer was killed."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
