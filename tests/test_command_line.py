"""From the command line to a typed configuration; every wrong option gives one line."""

from pathlib import Path

import pytest
import yaml

from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.approaches.configs import foreign_cache, load_config
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.command_line import parse_train_options
from anomaly_tf.config import Config, ThresholdConfig, TrainingConfig, save_config
from anomaly_tf.errors import UserError


def config_of(arguments: list[str]) -> Config:
    return parse_train_options(arguments).config


@pytest.mark.parametrize("approach", APPROACHES)
def test_the_yaml_of_an_approach_holds_its_defaults(approach):
    options = parse_train_options(["--approach", approach])
    config, run_dir = options.config, options.run_dir
    assert config == options_of(approach)()
    assert run_dir is None


def test_sota_is_the_approach_that_is_trained_without_a_name():
    assert config_of([]) == DualGanConfig()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--losses.abc-weight", "3", "--normal-class=4", "--run-dir", "a-b_c"],
        ["--losses.abc_weight=3", "--normal_class", "4", "--run_dir=a-b_c"],
    ],
)
def test_hyphens_and_underscores_are_the_same(arguments):
    options = parse_train_options(arguments)
    config, run_dir = options.config, options.run_dir
    assert (config.losses.abc_weight, config.normal_class, run_dir) == (3.0, ("4",), "a-b_c")


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text("approach: sota\nseed: 5\ntraining:\n  epochs: 7\n")
    config = config_of(["--config", str(file), "--training.epochs", "3"])
    assert (config.training.epochs, config.seed) == (3, 5)
    assert config.training.batch_size == TrainingConfig().batch_size


@pytest.mark.parametrize("value", [["3,4"], ["[3,4]"], ["[3, 4]"]])
def test_several_values_go_with_or_without_brackets(value):
    config = parse_train_options(
        ["--unseen.seen-classes", *value, "--networks.filters=8,16"]
    ).config
    assert [str(one) for one in config.unseen.seen_classes] == ["3", "4"]
    assert config.networks.filters == (8, 16)


def test_baseline_is_another_name_of_the_plain_gan(tmp_path: Path):
    config = config_of(["--approach", "baseline"])
    assert config == options_of("gan")()
    file = tmp_path / "own.yaml"
    file.write_text("approach: baseline\nseed: 3\n")
    assert config_of(["--config", str(file)]).approach == "gan"
    assert config_of(["--config", str(file), "--approach", "sota"]).approach == "sota"


def test_deterministic_is_a_flag():
    assert config_of(["--deterministic"]).deterministic
    assert config_of(["--deterministic", "--seed", "1"]).deterministic
    assert not config_of([]).deterministic


def test_a_saved_configuration_reads_back_equal(tmp_path: Path):
    config = config_of(
        ["--networks.filters", "[8,16]", "--threshold.percentile", "99", "--data-dir", "a-b"]
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("approach", APPROACHES)
def test_every_approach_has_a_yaml_with_a_complete_header(approach):
    text = (Path("configs") / f"{approach}.yaml").read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("python train.py", "AUROC:", "wall time:", "seed", "20"):
        assert word in header
    assert yaml.safe_load(text)["approach"] == approach


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--approach stoa", ["'stoa'", "did you mean 'sota'"]),
        ("--approach", ["--approach"]),
        ("--losses.abc-wieght 2", ["--losses.abc-wieght", "did you mean '--losses.abc-weight'"]),
        ("--epoch 5", ["--epoch", "--training.epochs"]),
        ("extra", ["extra"]),
        ("--seed", ["--seed"]),
        ("--seed -1", ["--seed", "at least 0", "-1"]),
        ("--training.epochs 1.5", ["--training.epochs", "whole number", "1.5"]),
        ("--training.epochs 0", ["--training.epochs", "at least 1", "0"]),
        ("--training.batch-size 7", ["--training.batch-size", "even", "7"]),
        ("--training.learning-rate 0", ["--training.learning-rate", "above 0"]),
        ("--training.learning-rate nan", ["--training.learning-rate", "nan"]),
        (f"--training.epochs -{'9' * 400}", ["--training.epochs", "at least 1"]),
        (f"--seed {'9' * 400}", ["--seed", "at most 2147483647"]),
        (f"--corruption.noise {'9' * 400}", ["number is too large"]),
        ("--training.learning-rate inf", ["--training.learning-rate", "number", "inf"]),
        ("--training.precision half", ["--training.precision", "float32", "half"]),
        ("--losses.abc-weight=-1", ["--losses.abc-weight", "at least 0", "-1"]),
        ("--losses.abc-weight much", ["--losses.abc-weight", "number", "much"]),
        ("--threshold.false-alarm-rate 0", ["--threshold.false-alarm-rate", "above 0", "got 0"]),
        ("--threshold.false-alarm-rate 1", ["--threshold.false-alarm-rate", "below 1", "got 1"]),
        ("--threshold.false-alarm-rate 0.1", ["needs --threshold.method conformal; got 0.1"]),
        (
            "--threshold.method conformal --threshold.percentile 99",
            ["--threshold.percentile needs --threshold.method percentile; got 99"],
        ),
        ("--threshold.method conform", ["--threshold.method", "conformal", "conform"]),
        ("--threshold.percentile 150", ["--threshold.percentile", "at most 100", "150"]),
        ("--networks.filters [8,0]", ["--networks.filters", "at least 1", "0"]),
        ("--networks.filters wide", ["--networks.filters", "a whole number", "wide"]),
        ("--networks.latent=", ["--networks.latent", "whole number", "got nothing"]),
        ("--losses 3", ["option --losses is a section", "--losses.reconstruction-weight"]),
        ("--networks.filters []", ["--networks.filters", "at least one"]),
        ("--protocol one_clas", ["--protocol", "imbalance", "one_clas"]),
        (
            "--approach vae --protocol imbalance",
            ["must be one of one_class, contaminated, corruption for", "vae"],
        ),
        ("--protocol one_class", ["imbalance, unseen, corruption", "sota", "got one_class"]),
        ("--approach basline", ["did you mean 'baseline'"]),
        ("--corruption.noise -0.1", ["--corruption.noise must be at least 0; got -0.1"]),
        ("--corruption.rotation=-5", ["--corruption.rotation must be at least 0", "-5"]),
        ("--corruption.kinds noise,blur", ["--corruption.kinds", "'noise', 'rotation'", "blur"]),
        ("--corruption.kinds noise,noise", ["--corruption.kinds", "at most once"]),
        ("--corruption.sweep 1,-2", ["--corruption.sweep must be at least 0; got -2"]),
        ("--unseen.unseen-classes []", ["--unseen.unseen-classes", "at least one class; got none"]),
        (
            "--unseen.seen-classes 1,2 --unseen.unseen-classes 2,3",
            ["--unseen.unseen-classes must hold none of the seen classes; got 2 in both"],
        ),
        ("--approach cnn --networks.filters 3", ["--networks.filters", "at least two values"]),
        ("--deterministic maybe", ["--deterministic", "true or false", "maybe"]),
        ("--config none.yaml", ["none.yaml", "No such file"]),
    ],
)
def test_wrong_options_are_named_in_one_line(arguments, words):
    with pytest.raises(UserError) as caught:
        parse_train_options(arguments.split())
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("losses: [1\n", ["line 2", "broken YAML"]),
        (
            "seed: &one 1\ntraining:\n  epochs: *one\n",
            ["line 3, column 11", "*one", "write its value out"],
        ),
        ("losses: &itself {abc_weight: *itself}\n", ["line 1, column 30", "*itself"]),
        ("seed: 2001-99-99\n", ["broken YAML", "month"]),
        ("seed: " + "[" * 20_000, ["broken YAML", "nested too deeply"]),
        ("approach: [sota]\n", ["unknown approach", "['sota']"]),
        ("losses:\n  abc_wieght: 1\n", ["losses.abc_wieght", "did you mean 'losses.abc_weight'"]),
        ("- 1\n", ["key: value", "list"]),
        ("seed: two\n", ["seed", "whole number", "two"]),
        ("seed: 1:30\n", ["line 1, column 7", "1:30", "not a whole number"]),
        (f"seed: {'1' * 41}\n", ["line 1, column 7", "not a whole number that an option takes"]),
        ("training: 5\n", ["training"]),
        ("approach: stoa\n", ["'stoa'", "sota"]),
        ("threshold:\n  percentile: -3\n", ["threshold.percentile", "at least 0"]),
    ],
)
def test_wrong_files_are_named_in_one_line(content, words, tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        parse_train_options(["--config", str(file)])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_the_python_api_checks_ranges_too():
    with pytest.raises(ValueError, match=r"threshold\.percentile must be .* at most 100; got 101"):
        ThresholdConfig(percentile=101)


def test_a_promised_false_alarm_rate():
    options = ["--threshold.method", "conformal", "--threshold.false-alarm-rate", "0.01"]
    config = config_of(options)
    assert config.threshold == ThresholdConfig(method="conformal", false_alarm_rate=0.01)
    # A configuration from before there was a choice.
    assert ThresholdConfig(percentile=99).method == "percentile"


@pytest.mark.parametrize("asked", ["-h", "--help", "--version"])
def test_who_asks_for_help_beside_resume_gets_it(asked, capsys):
    with pytest.raises(SystemExit) as end:
        parse_train_options(["--resume", "runs/mine", asked])
    assert end.value.code in (0, None)
    assert "anomaly-tf train" in capsys.readouterr().out


def test_a_cache_is_the_users_or_inside_the_run_or_foreign(tmp_path: Path):
    run, elsewhere, link = tmp_path / "run", tmp_path / "elsewhere", tmp_path / "link"
    run.mkdir()
    elsewhere.mkdir()
    link.symlink_to(run)
    (run / "out").symlink_to(elsewhere)
    named = {
        "data": None,  # the default, which no run needs to name
        str(elsewhere): elsewhere,
        str(run / "cache"): None,
        str(run / "out"): run / "out",
    }
    for name, foreign in named.items():
        (run / "config.yaml").write_text(f"data_dir: {name}\n")
        for way in (run, link):
            assert foreign_cache(str(way), None) == foreign
        assert foreign_cache(str(run), str(elsewhere)) is None
    assert foreign_cache(None, None) is None


def test_a_name_unlike_any_option_gets_no_suggestion():
    with pytest.raises(UserError, match=r"^unknown option '--zzzz'; see --help$"):
        parse_train_options(["--zzzz", "1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos/"], "photos/ does not follow an option; .* --data photos/"),
        (["--approach", ""], "--approach is empty"),
        (["--approach="], "--approach is empty"),
        (["--config", "", "--data", "photos"], "--config is empty"),
        (["--approach", "VAE"], "did you mean 'vae'"),
    ],
)
def test_an_empty_or_misplaced_word_is_named(arguments, words):
    with pytest.raises(UserError, match=words):
        parse_train_options(arguments)
