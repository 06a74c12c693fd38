"""predict.py as a user runs it: output, exit status, unreadable files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_one_line, run_command, run_script
from PIL import Image

from anomaly_tf import Detector
from anomaly_tf.cli import evaluate, export
from anomaly_tf.cli import predict as script
from anomaly_tf.deploy.file_scoring import MANY, ImageFile, score_files
from anomaly_tf.detection.batches import check_drift, select_anomalies
from anomaly_tf.detection.threshold import conformal_threshold
from anomaly_tf.errors import UserError


@pytest.fixture(scope="module")
def model(deployed) -> Path:
    """A .tflite file."""
    return deployed["tflite"]


@pytest.fixture(scope="module")
def judged(model, small_arrays) -> dict[str, list[np.ndarray]]:
    """Test images, uint8 (28, 28), by what the model says of them."""
    images = small_arrays[2][:300]
    verdicts = Detector.load(model).predict(images)
    return {
        name: list(images[verdicts == label][..., 0])
        for label, name in enumerate(("normal", "anomaly"))
    }


@pytest.fixture
def photos(judged, tmp_path) -> Path:
    """Two normal images and an anomaly, one in a folder below."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.fromarray(judged["normal"][0]).save(tmp_path / "photos" / "a.png")
    Image.fromarray(judged["normal"][1]).save(tmp_path / "photos" / "b.bmp")
    Image.fromarray(judged["anomaly"][0]).save(tmp_path / "photos" / "more" / "ä, c.png")
    return tmp_path / "photos"


def predict(model: Path, *arguments: object, **keywords: object):
    return run_script("predict.py", "--model", model, *arguments, **keywords)


def test_json_lines(model, photos, judged, without_tensorflow):
    done = predict(model, photos, "--format", "jsonl", env=without_tensorflow)
    assert (done.returncode, done.stderr) == (1, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == [
        str(photos / name) for name in ("a.png", "b.bmp", "more/ä, c.png")
    ]
    detector = Detector.load(model)
    images = np.stack([*judged["normal"][:2], judged["anomaly"][0]])
    scores = detector.score(images)
    assert [row["score"] for row in rows] == pytest.approx(list(scores), rel=1e-5)
    assert [row["is_anomaly"] for row in rows] == [False, False, True]
    calibration = np.array(detector.info.calibration.scores)
    for row, score in zip(rows, scores, strict=True):
        rank = (1 + (calibration >= score).sum()) / (1 + len(calibration))
        assert row["rank"] == pytest.approx(rank, rel=1e-3)


def test_csv(model, photos, without_tensorflow):
    done = predict(model, photos, "--format", "csv", env=without_tensorflow)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["verdict"] for row in rows] == ["normal", "normal", "anomaly"]
    assert rows[2]["file"].endswith("ä, c.png")
    assert all(float(row["score"]) >= 0 and 0 < float(row["rank"]) <= 1 for row in rows)


def test_table(model, photos, without_tensorflow):
    (photos / "line\nbreak.png").write_bytes((photos / "a.png").read_bytes())
    done = predict(model, photos, env=without_tensorflow)
    head, *rows, summary = done.stdout.splitlines()
    assert head.split() == ["score", "verdict", "rank", "file"]
    assert len(rows) == 4
    assert rows[2].endswith("line\\nbreak.png")
    assert summary.startswith("4 images, 1 above the threshold of ")
    assert len({line.index(word) for line, word in zip(rows, ["normal"] * 3, strict=False)}) == 1


def twelve_bits(grey: np.ndarray) -> np.ndarray:
    """Grey levels as a camera of 12 bits gives them, uint16."""
    return np.ceil(grey * (4095 / 255)).astype(np.uint16)


def test_sixteen_bits_are_read_as_in_training_or_as_given(
    model, judged, without_tensorflow, tmp_path
):
    grey = judged["normal"][0].astype(np.uint16)
    grey[0, 0] = 255
    plain, camera = tmp_path / "plain.png", tmp_path / "camera.png"
    Image.fromarray(grey.astype(np.uint8)).save(plain)
    Image.fromarray(twelve_bits(grey)).save(camera)
    options = ("--format", "jsonl")
    done = predict(model, plain, camera, *options, env=without_tensorflow)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "camera.png has 16 bits and no value above 4095" in done.stderr
    assert "--bit-depth 12 or 16" in done.stderr
    done = predict(model, plain, camera, "--bit-depth", 12, *options, env=without_tensorflow)
    first, second = (json.loads(line)["score"] for line in done.stdout.splitlines())
    assert first == pytest.approx(second, rel=1e-6)
    assert done.stderr == ""
    done = predict(model, plain, "--bit-depth", 11, env=without_tensorflow)
    assert_one_line(done, "--bit-depth", "11", "16")


def test_files_of_more_pixels_than_allowed(model, photos, without_tensorflow):
    done = predict(model, photos / "a.png", "--max-pixels", 783, env=without_tensorflow)
    assert done.returncode == 2
    assert done.stderr.endswith("give --max-pixels 784, resize it or cut it into parts; skipped\n")
    done = predict(model, photos / "a.png", "--max-pixels", 784, env=without_tensorflow)
    assert (done.returncode, done.stderr) == (0, "")
    for wrong in (0, 10**9):
        done = predict(model, photos / "a.png", "--max-pixels", wrong, env=without_tensorflow)
        assert_one_line(done, "--max-pixels must be 1 to 134217728", str(wrong))


def test_a_detector_knows_the_bit_depth_of_its_training(model, judged, tmp_path):
    grey = judged["normal"][0].astype(np.uint16)
    grey[0, 0] = 200  # a picture without white
    camera, plain = tmp_path / "camera.png", tmp_path / "plain.png"
    Image.fromarray(twelve_bits(grey)).save(camera)
    Image.fromarray(grey.astype(np.uint8)).save(plain)
    detector = Detector.load(model)
    detector.info.bit_depth = 12
    files = [ImageFile(plain), ImageFile(camera)]
    first, second = (file.score for part in score_files(detector, files) for file in part)
    assert first == pytest.approx(second, rel=1e-6)
    np.testing.assert_array_equal(detector.read(camera)[..., 0], grey)


def test_exit_status_as_grep(model, photos, without_tensorflow):
    normal = predict(model, photos / "a.png", photos / "b.bmp", env=without_tensorflow)
    assert (normal.returncode, normal.stderr) == (0, "")
    (photos / "text.png").write_text("no picture")
    broken = predict(model, photos, photos / "none.png", env=without_tensorflow)
    assert broken.returncode == 2
    assert broken.stderr.splitlines() == [
        f"error: {photos / 'text.png'} is not an image (BMP, GIF, JPEG, PNG, TIFF, WEBP); skipped",
        f"error: cannot read {photos / 'none.png'}: No such file or directory; skipped",
    ]
    assert "3 images, 1 above" in broken.stdout  # the others were scored
    assert "2 unreadable" in broken.stdout


def test_nothing_that_can_be_read(model, without_tensorflow, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    done = predict(model, *[tmp_path / "text.png"] * 3, env=without_tensorflow)
    assert done.returncode == 2
    assert done.stderr.count("is not an image") == done.stderr.count("\n") == 3
    assert "0 images, 0 above" in done.stdout
    assert done.stdout.endswith("; 3 unreadable\n")


def test_another_false_alarm_rate(model, judged, photos, without_tensorflow):
    picture = photos / "more" / "ä, c.png"
    strict = predict(
        model, picture, "--false-alarm-rate", "0.02", "--format", "jsonl", env=without_tensorflow
    )
    scores = Detector.load(model).calibration_scores
    row = json.loads(strict.stdout)
    assert row["is_anomaly"] == (row["score"] >= conformal_threshold(scores, 0.02))
    assert row["is_anomaly"] == (row["rank"] <= 0.02)
    lenient = predict(model, photos / "a.png", "--false_alarm_rate", "0.9", env=without_tensorflow)
    assert f"threshold of {conformal_threshold(scores, 0.9):.4g}" in lenient.stdout


@pytest.fixture
def mixed(judged, tmp_path) -> Path:
    """70 normal images and 30 anomalies, by the model's own threshold; more than one batch."""
    (tmp_path / "mixed").mkdir()
    for kind, count in (("normal", 70), ("anomaly", 30)):
        # Of few normal ones each comes several times.
        for number in range(count):
            picture = judged[kind][number % len(judged[kind])]
            Image.fromarray(picture).save(tmp_path / "mixed" / f"{kind} {number:02}.png")
    return tmp_path / "mixed"


@pytest.mark.parametrize(
    ("kind", "words", "count"),
    [
        ("table", "100 images, 30 above the threshold of ", 1),
        ("csv", ",anomaly,", 30),
        ("jsonl", '"is_anomaly": true', 30),
    ],
)
def test_anomalies_in_any_part_of_the_images_count(kind, words, count, model, mixed, capsys):
    # By name the anomalies come first, and the normal images fill more than the last part.
    assert script.main(["--model", str(model), str(mixed), "--format", kind]) == 1
    assert capsys.readouterr().out.count(words) == count


@pytest.mark.parametrize(("reached", "status"), [(True, 1), (False, 0)])
def test_a_score_equal_to_the_threshold_is_an_anomaly(
    reached, status, model, photos, tmp_path, capsys
):
    image = np.asarray(Image.open(photos / "a.png"))[np.newaxis]
    score = Detector.load(model).score(image)[0]
    info = json.loads(model.with_suffix(".json").read_text())
    info["threshold"]["value"] = float(score if reached else np.nextafter(score, np.float32(9)))
    changed = tmp_path / "changed.tflite"
    changed.write_bytes(model.read_bytes()[: info["model_bytes"]])
    changed.with_suffix(".json").write_text(json.dumps(info))
    options = ["--model", str(changed), str(photos / "a.png"), "--format", "jsonl"]
    assert script.main(options) == status
    assert json.loads(capsys.readouterr().out)["is_anomaly"] is reached
    assert Detector.load(changed).predict(image).tolist() == [status]


def test_all_images_of_a_call_are_judged_together(model, mixed, without_tensorflow):
    options = (mixed, "--false-discovery-rate", "0.1", "--format", "jsonl")
    done = predict(model, *options, env=without_tensorflow)
    assert (done.returncode, done.stderr) == (1, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 100
    assert [row["file"] for row in rows] == sorted(str(file) for file in mixed.iterdir())
    detector = Detector.load(model)
    images = np.stack([np.asarray(Image.open(row["file"])) for row in rows])
    chosen = select_anomalies(detector.p_values(detector.score(images)), 0.1)
    assert [row["is_anomaly"] for row in rows] == chosen.tolist()
    assert 10 < chosen.sum() < 40
    # Alone, an image of 60 calibration images has a p-value of at least 1 / 61; among 70 normal
    # ones this is no discovery.
    files = [file for file in mixed.iterdir() if file.name.startswith("normal")]
    done = predict(
        model,
        *files,
        mixed / "anomaly 00.png",
        "--false_discovery_rate=0.1",
        env=without_tensorflow,
    )
    assert done.returncode == 0
    assert done.stdout.endswith("71 images, 0 anomalies, at a false-discovery rate of 0.1\n")


def test_a_stream_unlike_the_calibration_images_is_reported(model, small_arrays, tmp_path):
    _, _, images, classes = small_arrays
    clean = images[classes == 0][:100, ..., 0]
    noise = np.random.default_rng(0).normal(0, 40, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).astype(np.uint8)
    said = {}
    for name, stream in (("clean", clean), ("noisy", noisy), ("few", noisy[:19])):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(stream):
            Image.fromarray(picture).save(tmp_path / name / f"{number:02}.png")
        plain = predict(model, tmp_path / name)
        done = predict(model, tmp_path / name, "--check-drift")
        assert (done.returncode, done.stdout, plain.stderr) == (plain.returncode, plain.stdout, "")
        assert done.stderr.count("\n") == 1
        said[name] = done.stderr
    assert said["clean"].startswith("drift: none detected; the scores of these 100 images")
    assert said["noisy"].startswith("drift: detected; the scores of these 100 images")
    assert "camera, light and focus" in said["noisy"]
    assert said["few"] == (
        "drift: not tested with 19 images; at least 20 are needed, and as many calibration images\n"
    )
    detector = Detector.load(model)
    found = check_drift(detector.score(noisy), detector.calibration_scores)
    for words in (
        f"D = {found.statistic:.3f}",
        f"p = {found.p_value:.2g}",
        f"median {found.median:.4g}",
        f"calibration images {found.calibration_median:.4g}",
    ):
        assert words in said["noisy"]


@pytest.mark.parametrize(
    "options",
    [("--check-drift",), ("--false-discovery-rate", "0.1"), ("--check_drift", "--format", "csv")],
)
def test_without_scipy_one_line_names_the_package_to_install(
    options, model, photos, without_tensorflow
):
    scipy = Path(without_tensorflow["PYTHONPATH"]) / "scipy"
    scipy.mkdir()
    (scipy / "__init__.py").write_text("raise ImportError('is not installed')")
    # Without these options nothing needs it.
    assert predict(model, photos, env=without_tensorflow).returncode == 1
    done = predict(model, photos, *options, env=without_tensorflow)
    assert_one_line(done, options[0].replace("_", "-"), "scipy", "python -m pip install scipy")


def test_heat_maps_lie_over_the_pictures(model, photos, without_tensorflow, tmp_path):
    large = Image.open(photos / "more" / "ä, c.png").resize((120, 90)).convert("RGB")
    large.save(photos / "more" / "large.jpg")
    arguments = (photos, photos / "a.png", "--heatmaps", tmp_path / "heat")
    assert predict(model, *arguments, env=without_tensorflow).returncode == 1
    written = sorted(
        path.relative_to(tmp_path / "heat") for path in tmp_path.rglob("heat/**/*.png")
    )
    assert written == sorted(
        Path(name)
        for name in (
            "a.png",
            "photos/a.png",
            "photos/b.bmp.png",
            "photos/more/large.jpg.png",
            "photos/more/ä, c.png",
        )
    )
    over = Image.open(tmp_path / "heat/photos/more/large.jpg.png")
    assert (over.size, over.mode) == ((120, 90), "RGB")
    # Where the error is, it turns red: more than in the picture, which is grey.
    red, _, blue = np.moveaxis(np.asarray(over).astype(int), -1, 0)
    assert (red - blue).max() > 20
    assert (red - blue).min() > -10


def test_full_red_is_where_the_map_reaches_the_scale_of_the_detector(model, photos, tmp_path):
    detector = Detector.load(model)
    # Black turned to white, which the detector cannot expect.
    grey = 255 - np.asarray(Image.open(photos / "a.png").convert("L"))
    Image.fromarray(grey).save(tmp_path / "negative.png")
    predict(model, tmp_path / "negative.png", "--heatmaps", tmp_path / "heat")
    drawn = np.asarray(Image.open(tmp_path / "heat" / "negative.png")).astype(int)
    (heat,) = detector.explain(grey[np.newaxis])
    red = heat >= detector.heat_scale.high
    assert 0 < red.sum() < red.size
    # The strongest colour, (220, 0, 0), hides four fifths of the picture.
    expected = np.stack([0.2 * grey + 0.8 * 220, 0.2 * grey, 0.2 * grey], axis=-1)
    np.testing.assert_allclose(drawn[red], expected[red], atol=1)
    assert (drawn[~red, 1] > expected[~red, 1] + 1).any()


def test_a_run_without_a_scale_for_heat_maps_gets_it_by_an_evaluation(
    run_copy, photos, tmp_path, capsys
):
    """As runs are that an earlier version made."""
    file = run_copy / "detector.json"
    info = json.loads(file.read_text())
    scale = info.pop("heat_scale")
    file.write_text(json.dumps(info))
    assert judge(capsys, "--model", run_copy, photos)[0] == 1
    heat = ("--heatmaps", tmp_path / "heat")
    with pytest.raises(UserError, match=r"--heatmaps.*no scale for heat maps.*evaluate --run-dir"):
        judge(capsys, "--model", run_copy, photos, *heat)
    evaluate.main(["--run-dir", str(run_copy)])
    again = json.loads(file.read_text())
    assert again.pop("heat_scale") == pytest.approx(scale)
    assert again == info
    assert judge(capsys, "--model", run_copy, photos, *heat)[0] == 1


def test_files_of_the_same_name_keep_their_maps(model, photos, without_tensorflow, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((photos / "a.png").read_bytes())
    arguments = (photos / "a.png", other / "a.png", "--heatmaps", tmp_path / "heat")
    predict(model, *arguments, env=without_tensorflow)
    assert {path.name for path in (tmp_path / "heat").iterdir()} == {"a.png", "a-2.png"}


def test_a_run_and_its_export_give_the_same_output(model, trained_run, photos, capsys):
    said = (
        judge(capsys, "--model", path, photos, "--format", "jsonl")[1]
        for path in (trained_run, model)
    )
    rows = [[json.loads(line) for line in lines.splitlines()] for lines in said]
    assert len(rows[0]) == 3
    for before, after in zip(*rows, strict=True):
        assert after["score"] == pytest.approx(before["score"], rel=1e-4)
        assert after["is_anomaly"] == before["is_anomaly"]


def test_a_terminal_sees_how_far_it_is(model, judged, without_tensorflow, tmp_path):
    for number, picture in enumerate(judged["anomaly"][:130]):
        Image.fromarray(picture).save(tmp_path / f"{number:03}.png")
    ours, terminal = os.openpty()
    done = run_script(
        *("predict.py", "--model", model, tmp_path),
        env=without_tensorflow,
        capture_output=False,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 1
    assert f"[{'#' * 19:<40}] 64 of 130 images" in shown
    assert shown.endswith("\r\033[K")  # wiped away at the end
    assert "\033" not in done.stdout


def test_many_files_in_order(model, judged, without_tensorflow, tmp_path):
    pictures = [*judged["normal"], *judged["anomaly"]] * 2
    assert len(pictures) > MANY  # so that several processes score them, if there are two threads
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number:03}.png")
    done = predict(model, tmp_path, "--format", "jsonl", env=without_tensorflow)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["file"]).name for row in rows] == [f"{n:03}.png" for n in range(len(pictures))]
    scores = Detector.load(model).score(np.stack(pictures))
    assert [row["score"] for row in rows] == pytest.approx(list(scores), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("photos", ["--model"]),
        ("--model none photos", ["none does not exist"]),
        ("--model none.tflite photos", ["none.tflite does not exist"]),
        ("--model photos photos", ["not a run directory"]),
        ("--model photos/text.png photos", ["text.png", "was not written by export.py"]),
        ("--model {model}", ["FILES_OR_FOLDERS"]),
        ("--model {model} empty", ["folder empty holds no images"]),
        ("--model {model} missing", ["cannot read missing: No such file", "that exist"]),
        ("--model {model} " + "x" * 300, ["cannot read xxx", "File name too long"]),
        ("--model {model} missing none.png", ["cannot read missing", "nor any of 1 others"]),
        ("--model {model} photos --heatmaps photos", ["--heatmaps photos would write into"]),
        ("--model {model} photos --heatmaps=", ["--heatmaps is empty"]),
        ("--model {model} photos --heatmaps .", ["would write into photos", "reads from"]),
        ("--model {model} photos/text.png --heatmaps photos/../photos", ["reads from"]),
        ("--model {model} photos --format xml", ["--format", "xml", "jsonl"]),
        ("--model {model} photos --false-alarm-rate 2", ["--false-alarm-rate", "below 1; got 2"]),
        ("--model {model} photos --false-alarm-rate 1e-9", ["--false-alarm-rate", "needs"]),
        ("--model {model} photos --false-alarm-rate 1e-9", ["--false-alarm-rate: a rate of 1e-09"]),
        ("--model {model} photos --false-discovery-rate 1", ["--false-discovery-rate", "got 1"]),
        ("--model {model} photos --false-discovery-rate nan", ["--false-discovery-rate", "nan"]),
        (
            "--model {model} photos --false-discovery-rate 0.1 --false-alarm-rate 0.1",
            ["--false-alarm-rate", "not allowed with", "--false-discovery-rate"],
        ),
        ("--model {model} photos --heat maps", ["--heat", "--help"]),
        ("--model {model} photos --heatmaps photos/text.png", ["cannot write", "--heatmaps"]),
    ],
)
def test_wrong_input(options, words, model, without_tensorflow, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    arguments = options.format(model=model).split()
    done = run_script("predict.py", *arguments, cwd=tmp_path, env=without_tensorflow)
    assert_one_line(done, *words)


def test_no_heat_maps_of_an_exported_classifier(
    evaluated, photos, without_tensorflow, tmp_path, capsys
):
    run = evaluated("cnn", "classification").run
    options = ["--run-dir", str(run), "--format", "tflite", "--output", str(tmp_path)]
    assert export.main(options) == 0
    capsys.readouterr()
    arguments = (photos, "--heatmaps", tmp_path / "heat")
    done = predict(tmp_path / "cnn.tflite", *arguments, env=without_tensorflow)
    assert_one_line(done, "--heatmaps", "cnn", "give the run as --model")
    # The run itself explains by Grad-CAM.
    status, _, said = judge(capsys, "--model", run, *arguments)
    assert (status in (0, 1), said) == (True, [])
    assert len(list((tmp_path / "heat").rglob("*.png"))) == 3


def test_help(without_tensorflow):
    done = run_script("predict.py", "--help", env=without_tensorflow)
    assert done.returncode == 0
    words = ("--model", "--format", "--heatmaps", "--false-alarm-rate", "that of grep")
    for option in (*words, "--false-discovery-rate", "--check-drift", "conformal p-value"):
        assert option in done.stdout


def test_output_that_nobody_reads(model, photos, without_tensorflow):
    script = Path(__file__).parents[1] / "predict.py"
    command = f"{sys.executable} {script} --model {model} {photos} | head -n 0"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=without_tensorflow, check=False
    )
    assert done.stderr == ""


def folder_content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def judge(capsys, *arguments: object) -> tuple[int, str, list[str]]:
    """Exit status, stdout and the lines of stderr."""
    status = script.main([*map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err.splitlines()


def test_heat_maps_replace_only_heat_maps(model, photos, tmp_path, capsys):
    heat, before = photos / "heat", folder_content(photos)
    for _ in range(2):  # the second time they are replaced, and not judged
        status, out, said = judge(capsys, "--model", model, photos, "--heatmaps", heat)
        assert status == 1
        assert "3 images, 1 above" in out
    assert said == [
        "left out: 3 images written by anomaly_tf, heat maps or plots "
        f"(first: {heat / 'photos' / 'a.png'})"
    ]
    assert before.items() <= folder_content(photos).items()
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    mine = tmp_path / "mine" / "photos" / "a.png"
    mine.write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(UserError, match=r"a\.png exists and was not written by this command"):
        judge(capsys, "--model", model, photos, "--heatmaps", tmp_path / "mine")
    assert mine.read_bytes() == (photos / "a.png").read_bytes()
    assert [path.name for path in mine.parent.iterdir()] == ["a.png"]
    with pytest.raises(UserError, match="reads from"):
        judge(capsys, "--model", model, heat / "photos" / "a.png", "--heatmaps", heat / "photos")


def test_heat_maps_do_not_lie_in_the_model(deployed, photos):
    for place in ("", "variables", "assets.extra"):
        folder = deployed["saved_model"] / place
        options = ["--model", str(deployed["saved_model"].parent), str(photos), "--heatmaps"]
        with pytest.raises(UserError, match="reads from"):
            script.main([*options, str(folder)])


def test_images_of_the_same_name_get_different_heat_maps(model, photos, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.png", "A.PNG"):
        (other / name).write_bytes((photos / "a.png").read_bytes())
    files = (photos / "a.png", other / "a.png", other / "A.PNG")
    _, _, said = judge(capsys, "--model", model, *files, "--heatmaps", tmp_path / "heat")
    because = "because its own name is taken or too long"
    # A-2.png and a-2.png are one file where letter case does not count.
    assert said == [
        f"{other / 'a.png'}: its heat map is {tmp_path / 'heat' / 'a-2.png'}, {because}",
        f"{other / 'A.PNG'}: its heat map is {tmp_path / 'heat' / 'A-3.png'}, {because}",
    ]


def test_left_out_files_are_reported_and_the_others_are_scored(model, photos, tmp_path, capsys):
    for name in ("1.heic", "2.HEIC", "notes.txt", ".DS_Store", "Thumbs.db"):
        (photos / name).write_bytes(b"content")
    (tmp_path / "empty").mkdir()
    status, out, said = judge(capsys, "--model", model, photos)
    assert status == 1
    assert said == [
        "left out: 2 images in formats that are not supported; convert them to PNG or JPEG "
        "(2 .heic)",
        "left out: 1 other file, no image by the name (1 .txt)",
    ]
    # A named file that cannot be scored is an error.
    status, again, said = judge(capsys, "--model", model, tmp_path / "empty", photos)
    assert (status, again) == (2, out)
    assert said[0].startswith(f"error: folder {tmp_path / 'empty'} holds no images")
    status, _, said = judge(capsys, "--model", model, photos / "a.png", photos / "1.heic")
    assert (status, len(said)) == (2, 1)


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_names_from_stdin(separator, model, photos, without_tensorflow):
    names = [photos / "a.png", photos / "more" / "ä, c.png"]
    text = separator.join(map(str, names)) + separator
    done = predict(model, "-", "--format", "jsonl", input=text, env=without_tensorflow)
    assert (done.returncode, done.stderr) == (1, "")
    rows = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert rows == [str(name) for name in names]


def test_stdin_that_names_no_files(model, photos, without_tensorflow):
    picture = (photos / "a.png").read_bytes()
    utf_16 = f"{photos / 'a.png'}\n".encode("utf-16")
    for content, words in (
        *((b"", "names no files"), (b"\n", "names no"), (picture, "a picture")),
        *((utf_16, "in UTF-16"), (utf_16[2:], "in UTF-16"), (".\n".encode("utf-16"), "in UTF-16")),
    ):
        done = predict(model, "-", input=content, env=without_tensorflow, text=False)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
        assert words.encode() in done.stderr


def test_a_byte_order_mark_and_names_like_pictures(model, photos, without_tensorflow, tmp_path):
    for name in ("RIFF.png", "GIF8.png"):
        (photos / "a.png").with_name(name).write_bytes((photos / "a.png").read_bytes())
        done = predict(*(model, "-"), input=f"\ufeff{name}\n", env=without_tensorflow, cwd=photos)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_folder_does_not_prevent_the_other_scores(model, photos, without_tensorflow):
    done = predict(model, photos / "a.png", "-", input="", env=without_tensorflow)
    assert (done.returncode, done.stdout.count("a.png")) == (2, 1)
    assert done.stderr == "error: stdin names no files; give their names, one a line\n"


def test_a_closed_stdin_is_one_line(model, without_tensorflow):
    script = '"$0" predict.py --model "$1" - <&-'
    done = run_command("sh", "-c", script, sys.executable, model, env=without_tensorflow, cwd=ROOT)
    assert_one_line(done, "stdin is closed")


def test_heat_maps_of_strange_names(model, photos, without_tensorflow, tmp_path):
    strange, long = photos / "strange", f"{'b' * 251}.jpg"
    (strange / "a.bmp.png").mkdir(parents=True)
    image = Image.open(photos / "a.png")
    for name in ("a.bmp", "a.bmp.png/x.png", long):
        image.save(strange / name)
    options = ("--heatmaps", tmp_path / "heat")
    done = predict(model, strange, *options, env=without_tensorflow)
    assert (done.returncode, done.stdout.count("normal")) == (0, 3)
    drawn = sorted(path.name for path in (tmp_path / "heat").rglob("*.png") if path.is_file())
    assert drawn == ["a-2.png", f"{'b' * 235}-2.png", "x.png"]
    assert done.stderr.count("because its own name is taken or too long") == 2


def test_an_empty_name_is_not_the_folder_one_is_in(model, photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    with pytest.raises(UserError, match="is empty; leave it out"):
        script.main(["--model", str(model), ""])
    assert script.main(["--model", str(model), "a.png", ""]) == 2
    said = capsys.readouterr()
    assert "is empty" in said.err
    assert "1 images" in said.out


def test_a_leading_tilde_is_the_home_folder(model, photos, without_tensorflow, tmp_path):
    env = {**without_tensorflow, "HOME": str(tmp_path)}
    (tmp_path / "model.tflite").write_bytes(model.read_bytes())
    options = ("--model=~/model.tflite", "~/photos", "--heatmaps=~/heat", "--format", "jsonl")
    done = run_script("predict.py", *options, env=env)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count(str(photos)) == 3
    assert len(list((tmp_path / "heat").rglob("*.png"))) == 3


def test_names_are_printed_without_their_escapes(model, photos, capsys):
    place = photos / "a\x1b[31m\nb"
    place.mkdir()
    for name in ("c\x1b.png", "C\x1b.png"):  # two heat maps of one name, to some file systems
        (place / name).write_bytes((photos / "a.png").read_bytes())
    (place / "broken\x1b.png").write_text("no picture")
    (place / "link\x1b").symlink_to("nowhere")
    empty = photos / "empty\x1b\n"
    empty.mkdir()
    options = ["--model", str(model), "--heatmaps", str(photos.parent / "maps\x1b")]
    assert script.main([str(place), str(empty), *options]) == 2
    out, errors = capsys.readouterr()
    assert len(out.splitlines()) == 4
    words = ("holds no images", "left out: 1 broken link", "its heat map is", "is not an image")
    for line, word in zip(errors.splitlines(), words, strict=True):
        assert word in line
    assert (out + errors).replace("\n", "").isprintable()
