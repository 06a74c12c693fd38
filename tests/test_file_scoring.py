"""Files are scored on all threads with the same result in the same order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, weighing_detector
from PIL import Image

from anomaly_tf.deploy import file_scoring
from anomaly_tf.deploy.file_scoring import PART, ImageFile, score_files
from anomaly_tf.deploy.litert import LiteRTDetector
from anomaly_tf.errors import UserError


@pytest.fixture(scope="module")
def model(deployed) -> Path:
    return deployed["tflite"]


@pytest.fixture(scope="module")
def images(small_arrays) -> np.ndarray:
    return small_arrays[2][:240]


@pytest.fixture
def photos(images, tmp_path) -> list[ImageFile]:
    """More than a part for each of two threads; one in the middle is no picture."""
    files = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number:03}.png"
        Image.fromarray(image[..., 0]).save(path)
        files.append(ImageFile(path, tmp_path / "heat" / path.name))
    files[70].path.write_text("no picture")
    (tmp_path / "heat").mkdir()
    return files


@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_scores_do_not_depend_on_the_number_of_threads(count, model, images):
    expected = LiteRTDetector.load(model, threads=1).infer(images[:count], ("score", "error_map"))
    for threads in (2, 3, None):
        detector = LiteRTDetector.load(model, threads)
        found = detector.infer(images[:count], ("score", "error_map"))
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_several_threads_share_one_detector(model, images):
    detector = LiteRTDetector.load(model, threads=1)
    parts = np.split(images, 8)
    right = [detector.score(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(detector.score, parts * 12))
    for scores, expected in zip(found, right * 12, strict=True):
        np.testing.assert_array_equal(scores, expected)


def test_no_threads_are_too_few(model):
    with pytest.raises(ValueError, match=r"^expected at least 1 thread; got 0$"):
        LiteRTDetector.load(model, threads=0)


@pytest.mark.parametrize("many", [10, 10_000], ids=["processes", "threads"])
def test_files_are_scored_in_order_and_drawn(many, model, photos, images, monkeypatch):
    monkeypatch.setattr(file_scoring, "MANY", many)
    monkeypatch.setattr(file_scoring, "available_threads", lambda: 2)
    detector = LiteRTDetector.load(model)
    parts = list(score_files(detector, photos))
    assert {len(part) for part in parts} == {PART, len(photos) % PART}
    scored = [file for part in parts for file in part]
    assert [file.path for file in scored] == [file.path for file in photos]
    broken = scored.pop(70)
    assert broken.score is None
    assert str(photos[70].path) in broken.error
    assert [file.score for file in scored] == np.delete(detector.score(images), 70).tolist()
    assert {file.error for file in scored} == {None}
    drawn = {path.name for path in photos[0].heatmap.parent.iterdir()}
    assert drawn == {file.path.name for file in photos} - {photos[70].path.name}


def test_the_maps_of_processes_are_those_of_this_one(model, photos, monkeypatch):
    monkeypatch.setattr(file_scoring, "available_threads", lambda: 2)
    detector = LiteRTDetector.load(model)
    drawn = []
    for many in (10, 10_000):
        monkeypatch.setattr(file_scoring, "MANY", many)
        list(score_files(detector, photos[:12]))
        drawn.append([np.asarray(Image.open(file.heatmap)) for file in photos[:12]])
    np.testing.assert_array_equal(*drawn)


def test_each_heat_map_lies_over_its_own_upright_picture(tmp_path):
    # White where the defect is (only the red channel counts); blue elsewhere.
    files, places = [], [(2, 3), (5, 1), None, (9, 7), (0, 0)]
    for number, place in enumerate(places):
        path = tmp_path / f"{number}.png"
        files.append(ImageFile(path, tmp_path / f"heat {number}.png"))
        pixels = np.zeros((10, 8, 3), np.uint8)
        pixels[..., 2] = 200
        if place is None:
            path.write_text("no picture")
            continue
        pixels[place] = 255
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1  # one was taken with the camera on its side
        stored = np.rot90(pixels) if number == 1 else pixels
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    # Each map's largest value is 1, where the colour is strongest.
    detector = weighing_detector((10, 8, 3), (1, 0, 0))
    scored = [row for part in score_files(detector, files) for row in part]
    assert [file.path for file in scored] == [file.path for file in files]
    for file, place in zip(files, places, strict=True):
        if place is None:
            assert not file.heatmap.exists()
            continue
        drawn = np.asarray(Image.open(file.heatmap)).astype(int)
        assert drawn.shape == (10, 8, 3)
        # 80 % of (220, 0, 0) over white, and the picture as it was everywhere else.
        assert drawn[place].tolist() == [227, 51, 51]
        drawn[place] = (0, 0, 200)
        assert (drawn == (0, 0, 200)).all()


def test_a_heat_map_that_cannot_be_written_costs_no_score(model, photos):
    photos[1].heatmap.mkdir()
    scored = [row for part in score_files(LiteRTDetector.load(model), photos[:3]) for row in part]
    assert all(file.score is not None for file in scored)
    assert [file.error is None for file in scored] == [True, False, True]
    assert str(photos[1].heatmap) in scored[1].error
    assert photos[2].heatmap.is_file()


def test_a_process_that_is_killed_is_reported(model, photos, monkeypatch):
    monkeypatch.setattr(file_scoring, "MANY", 10)
    monkeypatch.setattr(file_scoring, "available_threads", lambda: 2)
    parts = score_files(LiteRTDetector.load(model), photos * 20)
    next(parts)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(UserError, match=r"was ended.*score fewer images"):
        list(parts)


def test_ctrl_c_ends_all_processes_with_one_line(model, photos, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(20_000):
        os.link(photos[0].path, tmp_path / "many" / f"{number:05}.png")
    command = [sys.executable, "-u", "predict.py", "--model", str(model), str(tmp_path / "many")]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()  # which comes with the first results
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted\n")
