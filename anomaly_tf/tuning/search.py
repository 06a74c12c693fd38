"""Runs the trials of a search, each a training in a process of its own.

A trial is one `train` command. Trials are compared by what it measured on the validation images;
the test set is not scored. A search that was stopped continues: trials under way are trained again
with the same values. Of the run directories, that of the best trial is kept.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from anomaly_tf.cluster import cluster_of
from anomaly_tf.command_line import parse_train_options
from anomaly_tf.commands import Commands, Ended, run_elsewhere, run_here
from anomaly_tf.config import Checked, Config, flatten, number, plain, with_options
from anomaly_tf.config.parser import as_argument
from anomaly_tf.data.contents import digest_of_source
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.search import Search as FileSearch
from anomaly_tf.data.search import folders_of
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.detection.threshold import require_calibration
from anomaly_tf.errors import OptionError, UserError, as_option
from anomaly_tf.jobs import executor, run_jobs
from anomaly_tf.runs.checks import parse_json
from anomaly_tf.runs.directory import open_run
from anomaly_tf.runs.files import folder_error, locked, require_writable, write_json
from anomaly_tf.runs.outputs import (
    MAX_JSON,
    SEARCH,
    SEARCH_OUTPUTS,
    is_own_run,
    require_own_place,
)
from anomaly_tf.script import duration, printable
from anomaly_tf.tuning.space import Space, as_text, described
from anomaly_tf.tuning.study import Study, Trial
from anomaly_tf.version import VERSION

# Exit status of a training that was refused: its options, or a loss that is not finite.
REFUSED = 2


@dataclass(frozen=True)
class SearchOptions(Checked):
    """Options of `search`; those of `train` hold for all trials.

    Attributes:
        space: YAML file of the options to search, each with a range or a list of choices. It must
            be given.
        output: Folder for the results and the run of the best trial; a search that was stopped
            resumes there.
        trials: Number of trials: the first one, of the default options, those of earlier calls with
            this output, and new ones.
        jobs: Number of trials that are trained at the same time, each on its share of the
            processor's threads.
        cluster: Address of the scheduler of a Dask cluster whose workers train, such as
            tcp://HOST:8786; by default this machine trains.
        certificates: Folder with ca.pem, cert.pem and key.pem for a cluster at tls://; by default
            as Dask's own configuration says.
    """

    section: ClassVar[str] = ""

    space: str | None = None
    output: str = "runs/search"
    trials: int = number(30, 1, 10_000)
    jobs: int = number(1, 1, 64)
    cluster: str | None = None
    certificates: str | None = None


@dataclass(frozen=True)
class Measure:
    """What the trials are compared by.

    Attributes:
        name: Its name among the validation metrics of a run.
        n_normal: Number of normal validation images.
        n_anomalies: Number of anomalous validation images.
    """

    name: str
    n_normal: int
    n_anomalies: int

    @property
    def words(self) -> str:
        """Its name in words."""
        return f"validation {'accuracy' if self.is_accuracy else 'AUROC'}"

    @property
    def is_accuracy(self) -> bool:
        """Whether it is the accuracy of a classifier."""
        return self.name == "val_accuracy"

    @property
    def images(self) -> str:
        """The validation images in words."""
        if self.is_accuracy:
            return f"{self.n_normal} validation images"
        return f"{self.n_normal} normal and {self.n_anomalies} anomalous validation images"


def measure_of(config: Config) -> Measure:
    """What trials are compared by; reads the data and divides it as a training does.

    A classifier is compared by what also selects its epoch.

    Raises:
        UserError: If the data is not sufficient for the training, or if there are no anomalies to
            compare detectors by.
    """
    dataset = open_dataset(config)
    split = make_split(config, dataset)
    for line in split.left_out:
        print(printable(line), file=sys.stderr)
    n_anomalies = int(split.validation.labels.sum())
    n_normal = len(split.validation) - n_anomalies
    require_calibration(config.threshold, n_normal, n_anomalies if split.roles.seen else 0)
    if config.learns_from == "classes":
        return Measure("val_accuracy", n_normal, n_anomalies)
    if not n_anomalies:
        raise UserError(
            f"there are only normal images in the validation set of {dataset.name}, and options "
            "are compared by how well they find anomalies; add a folder with a few labelled "
            "anomalies, or search with --protocol corruption, which generates some"
        )
    return Measure("val_auroc", n_normal, n_anomalies)


class Search:
    """A search and the folder that holds it.

    Args:
        options: Options of the search.
        config: Options of all trials, and the defaults of those that are searched.
        space: The options that are searched.

    Attributes:
        measure: What the trials are compared by.
        trials: The trials, by number.
        failures: Number of each trial whose training failed in this call, though its values were
            not refused, and the reason. The next call trains it again.
        importances: Share of each option in the variance of the measure, largest first; empty if
            there are too few results.

    Raises:
        UserError: If the folder or the data cannot be used.
    """

    def __init__(self, options: SearchOptions, config: Config, space: Space) -> None:
        self._options, self.config, self.space = options, config, space
        self.output = Path(options.output)
        self.journal = self.output / "journal.log"
        self.trials: list[Trial] = []
        self.failures: dict[int, str] = {}
        self.importances: dict[str, float] = {}
        self._require_own_place()
        require_writable(self.output, "--output")
        self.measure = measure_of(config)
        self._content = digest_of_source(config.data, (config.data_dir, options.output))

    @property
    def best(self) -> Trial | None:
        """The trial with the largest measure, the first of several; None without a result."""
        done = [trial for trial in self.trials if trial.measure is not None]
        return max(done, key=lambda trial: trial.measure or 0.0, default=None)

    def run_folder(self, trial: Trial) -> Path:
        """The run directory of a trial."""
        return self.output / "runs" / f"trial-{trial.number}"

    def run(self) -> Iterator[str]:
        """Trains the trials that are missing.

        Yields:
            Lines on the progress.

        Raises:
            UserError: If the folder holds another search, another process works on it, or a file in
                it is damaged.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        with locked(self.output, "--output"):
            self._begin()
            defaults = {name: flatten(self.config)[name] for name in self.space}
            study = Study(self.journal, self.space, defaults, self.config.seed)
            self._keep(study)
            if ended := self._ended():
                yield f"kept: {ended} trial{'s' * (ended > 1)} in {self.output}"
            yield from self._train_missing(study)
            self.importances = study.importances()

    def _train_missing(self, study: Study) -> Iterator[str]:
        options, refused = self._options, list[str]()
        cluster = cluster_of(options.cluster, options.certificates, options.jobs)
        with executor(options.jobs, cluster) as workers:
            work = run_here if cluster is None else run_elsewhere
            trainings = self._trainings(study, refused)
            for training, ended in run_jobs(work, trainings, workers, in_advance=False):
                number = int(training.run.name.rpartition("-")[2])
                refused.append(self._finished(study, self.trials[number], ended))
                refused[-1] += self._time_left(workers.parallel)
                yield from refused
                refused.clear()
        yield from refused

    def _trainings(self, study: Study, lines: list[str]) -> Iterator[Commands]:
        """Commands of the trials that were under way, then of new ones, as they are needed.

        Trials whose values exclude each other end here, each with one of the lines.
        """
        again = [trial for trial in self.trials if not trial.is_finished]
        while again or len(self.trials) < self._options.trials:
            trial = again.pop(0) if again else study.begin()
            if trial is None:
                lines.append("all combinations of values were tried")
                return
            self.trials = study.trials
            shutil.rmtree(self.run_folder(trial), ignore_errors=True)  # of a stopped search
            try:
                config = with_options(self.config, trial.values)
            except OptionError as error:
                lines.append(self._refused(study, trial, str(error.as_user_error())))
            else:
                yield self._training(config, self.run_folder(trial))

    def _training(self, config: Config, run: Path) -> Commands:
        """The command of a trial; on a cluster, with data at the same path."""
        usual = parse_train_options([f"--approach={config.approach}"]).config
        values = changes(config, usual)
        if self._options.cluster is not None:
            run = Path("runs", run.name)
            named = {"data": self._content and config.data, "roi": config.roi}
            named |= {"data_dir": config.data_dir}
            values |= {name: os.path.abspath(path) for name, path in named.items() if path}
        train = ["train", f"--approach={config.approach}", f"--run-dir={run}"]
        train += [as_argument(name, value) for name, value in values.items()]
        data = os.path.abspath(config.data) if self._content else None
        without = (os.path.abspath(config.data_dir), os.path.abspath(self.output))
        return Commands([train], run, data, self._content, without)

    def _finished(self, study: Study, trial: Trial, ended: Ended) -> str:
        """Keeps the result of a training; returns a line on it."""
        if ended.reason is not None:
            # A full disk says nothing about the values.
            if ended.status == REFUSED and not folder_error(RuntimeError(ended.reason)):
                return self._refused(study, trial, ended.reason, round(ended.seconds, 1))
            self.failures[trial.number] = ended.reason
            return f"{self._place()} trial {trial.number}: failed: {ended.reason}"
        ended.keep_run(self.run_folder(trial))
        facts = open_run(self.run_folder(trial))[1].training
        measure = facts.validation[self.measure.name]
        study.finish(trial.number, measure, seconds=round(ended.seconds, 1))
        self._keep(study)
        best, took = self.best, duration(ended.seconds)
        assert best
        return (
            f"{self._place()} trial {trial.number}: {self.measure.words} {measure:.4f}, {took}; "
            f"best {best.measure:.4f} (trial {best.number})"
        )

    def _refused(self, study: Study, trial: Trial, reason: str, seconds: float = 0.0) -> str:
        """Keeps that the values of a trial were refused; returns a line on it."""
        study.finish(trial.number, reason=reason, seconds=seconds)
        self._keep(study)
        return f"{self._place()} trial {trial.number}: refused: {reason}"

    def _keep(self, study: Study) -> None:
        """Takes the trials of a study, and removes the runs of all that ended but the best."""
        self.trials = study.trials
        best = self.best
        there = set(self.output.glob("runs/trial-*"))
        for trial in self.trials:
            if trial.is_finished and trial != best and self.run_folder(trial) in there:
                shutil.rmtree(self.run_folder(trial), ignore_errors=True)

    def _ended(self) -> int:
        return sum(trial.is_finished for trial in self.trials)

    def _place(self) -> str:
        total = max(self._options.trials, len(self.trials))
        return f"[{self._ended() + len(self.failures)}/{total}]"

    def _time_left(self, parallel: int) -> str:
        """Remaining time, estimated from the trials with a result."""
        took = [trial.facts["seconds"] for trial in self.trials if trial.measure is not None]
        waiting = self._options.trials - self._ended() - len(self.failures)
        if not took or waiting <= 0:
            return ""
        return f"; about {duration(waiting * statistics.median(took) / parallel)} left"

    def _require_own_place(self) -> None:
        """Refuses an output folder inside the data, or one with files of others."""
        outputs = {self.output / name: is_own for name, is_own in SEARCH_OUTPUTS.items()}
        outputs |= dict.fromkeys(self.output.glob("runs/trial-*"), is_own_run)
        data = Path(self.config.data)
        images = FileSearch().images_below(data) if data.is_dir() else []
        read_from = [data, *folders_of(data / file for file in images)]
        require_own_place("--output", self.output, outputs, read_from)

    def _begin(self) -> None:
        """Compares what is searched with what the folder was begun with, or writes it.

        Raises:
            UserError: If it is something else.
        """
        path, facts = self.output / "search.json", self._facts()
        if not path.exists():
            if self.journal.exists():
                raise UserError(f"{path} is gone; choose another --output")
            write_json(path, facts)
            return
        try:
            before = parse_json(path.read_bytes(), MAX_JSON, MAX_JSON)
            difference = _difference(before, facts)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); choose another --output") from error
        if difference:
            raise UserError(
                f"{self.output} was begun with another {difference}; give the same command again "
                "to continue, or choose another --output"
            )

    def _facts(self) -> dict[str, Any]:
        """What the results depend on."""
        apart = {"data", "data_dir", "roi", *self.space}
        fixed = flatten(self.config).items()
        roi = self.config.roi and digest_of_source(self.config.roi)
        return {
            "format": SEARCH,
            "anomaly_tf": VERSION,
            "data": self._content or self.config.data,
            "roi": roi or self.config.roi,
            "measure": self.measure.name,
            "n_normal": self.measure.n_normal,
            "n_anomalies": self.measure.n_anomalies,
            "options": {name: plain(value) for name, value in fixed if name not in apart},
            "space": {name: described(values) for name, values in self.space.items()},
        }


def changes(config: Config, other: Config) -> dict[str, Any]:
    """The options of a configuration that differ from those of another of its approach."""
    before = flatten(other)
    return {name: value for name, value in flatten(config).items() if value != before[name]}


# Facts of a search, and what they are in a message.
_COMPARED = {
    "anomaly_tf": "version of anomaly_tf",
    "data": "content of --data",
    "roi": "content of --roi",
    "measure": "measure",
    "n_normal": "number of normal validation images",
    "n_anomalies": "number of anomalous validation images",
}


def _difference(before: dict[str, Any], facts: dict[str, Any]) -> str:
    """The first difference of two searches in words; empty if there is none."""
    named = [("options", "approach"), *(("options", name) for name in facts["options"])]
    for part, name in [*named, *(("space", n) for n in {**before["space"], **facts["space"]})]:
        then, now = before[part].get(name, "none"), facts[part].get(name, "none")
        if then != now:
            what = f"{as_option(name)} in its space" if part == "space" else as_option(name)
            return f"{what} ({as_text(then)}; now {as_text(now)})"
    for key, what in _COMPARED.items():
        then, now = before[key], facts[key]
        if then != now:
            return f"{what} ({str(then)[:12]}; now {str(now)[:12]})"
    return ""
