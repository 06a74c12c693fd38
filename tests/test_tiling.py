"""Large pictures in tiles: cut without gaps, joined without seams, in bounded memory."""

from __future__ import annotations

import dataclasses
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import normal_set, small_config, small_model, weighing_detector
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import anomaly_tf
from anomaly_tf import Detector
from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.configs import config_of, load_config
from anomaly_tf.cli import evaluate, export, predict
from anomaly_tf.config import FolderConfig
from anomaly_tf.data import stored as stored_images
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.images import read_image
from anomaly_tf.data.stored import ImageFiles, Records, StoredImages, part_size
from anomaly_tf.data.tiles import tiles_of
from anomaly_tf.deploy.explained import explained, shrunk_size
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.deploy.overlay import PIXELS_AT_A_TIME, overlay
from anomaly_tf.detection.tiling import fading, infer_in_tiles
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.limits import images_at_a_time
from anomaly_tf.runs.sections import Tiling

TILING = Tiling(64, 16)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def cut(picture: np.ndarray, tiling: Tiling) -> np.ndarray:
    side, places = tiling.tile, tiling.places(picture.shape)
    return np.stack([picture[top : top + side, left : left + side] for top, left in places])


def on_tiles(image_shape: tuple[int, int, int], weights: tuple[float, ...]) -> TrainedDetector:
    """A detector of tiles whose map is the weighted sum of each pixel's channels."""
    detector = weighing_detector((64, 64, image_shape[-1]), weights)
    detector.info.image_shape, detector.info.tiling = list(image_shape), TILING
    return detector


@given(st.integers(64, 100), st.integers(0, 32), st.integers(0, 400))
def test_tiles_cover_a_side_with_weights_that_add_up_to_one(tile, overlap, more):
    tiling, side = Tiling(tile, overlap), tile + more
    starts, weights = tiling.starts(side), fading(side, tiling)
    assert (starts[0], starts[-1]) == (0, side - tile)
    steps = np.diff(starts)
    assert (steps[:-1] == tile - overlap).all()
    assert (steps > 0).all()
    assert (steps <= tile - overlap).all()
    total = np.zeros(side)
    for start, part in zip(starts, weights, strict=True):
        total[start : start + tile] += part
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
    assert (weights > 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_that_sees_single_pixels_gives_the_map_of_the_whole_picture(channels):
    pictures = noise(3, 150, 201, channels)
    weights = (1.0, 0.5, 0.25)[:channels]
    tiled = on_tiles((150, 201, channels), weights)
    maps, rebuilt = tiled.explain_and_reconstruct(pictures)
    np.testing.assert_allclose(maps, pictures @ np.array(weights) / 255, atol=1e-5)
    np.testing.assert_array_equal(rebuilt, pictures)
    plain = weighing_detector((64, 64, channels), weights)
    by_tile = [plain.score(cut(picture, TILING)) for picture in pictures]
    np.testing.assert_allclose(tiled.score(pictures), np.max(by_tile, axis=1), rtol=1e-6)
    assert tiled.image_shape == (150, 201, channels)
    assert tiled.input_shape == (64, 64, channels)


def test_no_pictures_have_no_answers():
    detector = on_tiles((70, 90, 1), (1.0,))
    assert detector.score(noise(0, 70, 90, 1)).shape == (0,)
    assert detector.explain(noise(0, 70, 90, 1)).shape == (0, 70, 90)
    with pytest.raises(ValueError, match=r"expected uint8 images \(N, 70, 90, 1\)"):
        detector.score(noise(2, 64, 64, 1))


def test_maps_of_unlike_tiles_have_no_seams():
    random = np.random.default_rng(1)

    def unlike(tiles: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        levels = random.uniform(0, 1, (len(tiles), 1, 1)).astype(np.float32)
        return {"error_map": np.broadcast_to(levels, tiles.shape[:3])}

    pictures = np.zeros((2, 212, 160, 1), np.uint8)
    maps = infer_in_tiles(unlike, pictures, ("error_map",), TILING)["error_map"]
    assert np.ptp(maps) > 0.2
    # A level changes by at most 1 over an overlap of 16 pixels.
    assert np.abs(np.diff(maps, axis=1)).max() <= 1 / 17 + 1e-6
    assert np.abs(np.diff(maps, axis=2)).max() <= 1 / 17 + 1e-6
    alike = infer_in_tiles(
        lambda tiles, names: {"error_map": np.full(tiles.shape[:3], 0.7, np.float32)},
        *(pictures, ("error_map",), TILING),
    )
    np.testing.assert_allclose(alike["error_map"], 0.7, rtol=1e-6)


def test_memory_does_not_grow_with_the_number_of_tiles():
    pictures, tiling = np.zeros((1, 3000, 4000, 3), np.uint8), Tiling(256, 32)
    together = []

    def blank(tiles: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        together.append(len(tiles))
        maps = np.zeros(tiles.shape[:3], np.float32)
        return {"score": np.zeros(len(tiles), np.float32), "error_map": maps}

    tracemalloc.start()
    try:
        outputs = infer_in_tiles(blank, pictures, ("score", "error_map"), tiling)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outputs["error_map"].shape == (1, 3000, 4000)
    assert sum(together) == len(tiling.places((3000, 4000))) == 14 * 18
    assert max(together) == 8
    # The map itself has 48 MB; all tiles would have 50 MB as images and 66 MB as maps.
    assert peak < outputs["error_map"].nbytes + 16 * 2**20


def test_what_is_drawn_of_large_pictures_is_shrunk():
    pictures, detector = noise(3, 150, 200, 1), on_tiles((150, 200, 1), (1.0,))
    images, maps, rebuilt = explained(detector, normal_set(pictures), 50)
    assert shrunk_size((150, 200, 1), 50) == (38, 50)
    assert images.shape == rebuilt.shape == (3, 38, 50, 1)
    assert maps.shape == (3, 38, 50)
    np.testing.assert_allclose(maps * 255, images[..., 0], atol=1.01)
    assert abs(images.mean() - pictures.mean()) < 1
    whole = explained(detector, normal_set(pictures[:1]), 200)
    np.testing.assert_array_equal(whole.images, pictures[:1])
    np.testing.assert_array_equal(whole.maps, detector.explain(pictures[:1]))


def test_strips_of_a_large_heat_map_are_drawn_like_small_ones():
    picture, strength = noise(700, 600, 3), noise(700, 600).astype(np.float32) / 255
    assert picture.shape[0] * picture.shape[1] > PIXELS_AT_A_TIME
    whole = np.asarray(overlay(Image.fromarray(picture), strength))
    for rows in (slice(100), slice(400, 500), slice(600, 700)):
        part = overlay(Image.fromarray(picture[rows]), strength[rows])
        np.testing.assert_array_equal(np.asarray(part), whole[rows])


def test_grad_cam_is_that_of_the_tiles():
    model = small_model(small_config("cnn"))
    side = model.detector.input_shape[1]
    names = ["a"] * model.detector.output["probabilities"].shape[-1]
    shape = [2 * side, 3 * side, model.detector.input_shape[-1]]
    whole = TrainedDetector(
        model.detector,
        DetectorInfo(image_shape=shape, class_names=names, tiling=Tiling(side, 0)),
    )
    picture = noise(1, *shape)
    tiles = TrainedDetector(model.detector, DetectorInfo(class_names=names))
    (heat,), parts = whole.explain(picture), tiles.explain(cut(picture[0], Tiling(side, 0)))
    joined = parts.reshape(2, 3, side, side).transpose(0, 2, 1, 3).reshape(2 * side, 3 * side)
    np.testing.assert_allclose(heat, joined, rtol=1e-5)
    assert heat.any()


@pytest.fixture
def pictures_of(tmp_path) -> dict[str, np.ndarray | StoredImages]:
    """The same four pictures in memory, decoded on disk, and as files."""
    pictures = noise(4, 100, 130, 3)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    (tmp_path / "images").write_bytes(pictures.tobytes())
    shape, numbers = pictures.shape[1:], np.arange(4)
    files = ImageFiles(tmp_path, [f"{number}.png" for number in numbers], shape)
    return {
        "memory": pictures,
        "decoded": StoredImages(Records(tmp_path / "images", shape), numbers, shape),
        "files": StoredImages(files, numbers, shape),
    }


@pytest.mark.parametrize("kind", ["memory", "decoded", "files"])
def test_tile_n_is_of_picture_n_over_the_tiles_of_a_picture(kind, pictures_of):
    tiles = tiles_of(normal_set(pictures_of[kind]), TILING)
    expected = np.concatenate([cut(picture, TILING) for picture in pictures_of["memory"]])
    assert tiles.shape == expected.shape == (4 * 6, 64, 64, 3)
    np.testing.assert_array_equal(tiles[:], expected)
    np.testing.assert_array_equal(tiles[np.array([23, 0, 7])], expected[[23, 0, 7]])
    few = tiles.subset(np.arange(24) % 2 == 1)
    np.testing.assert_array_equal(few[3:5], expected[[7, 9]])
    assert tiles_of(normal_set(pictures_of[kind]), None) is pictures_of[kind]


def test_a_tile_reads_the_rows_it_needs(pictures_of, monkeypatch):
    tiles = tiles_of(normal_set(pictures_of["decoded"].subset(np.array([2, 3]))), TILING)
    read, preadv = [], os.preadv

    def counting(file: int, buffers: list, offset: int) -> int:
        read.append(preadv(file, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counting)
    np.testing.assert_array_equal(tiles[7:8], cut(pictures_of["memory"][3], TILING)[1:2])
    assert read == [64 * 130 * 3]


def test_the_tiles_of_one_file_decode_it_once(pictures_of, monkeypatch):
    decoded = []

    def counting(path: Path, *arguments: object) -> np.ndarray:
        decoded.append(path.name)
        return read_image(path, *arguments)

    monkeypatch.setattr(stored_images, "read_image", counting)
    tiles = tiles_of(normal_set(pictures_of["files"]), TILING)
    assert tiles[np.array([0, 13, 5, 12])].shape == (4, 64, 64, 3)
    assert decoded == ["0.png", "2.png"]


def test_a_file_that_went_missing_is_named(pictures_of, tmp_path):
    tiles = tiles_of(normal_set(pictures_of["files"]), TILING)
    (tmp_path / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png"):
        tiles[:]
    assert "2.png" in str(tiles.unreadable)


def test_few_large_pictures_are_read_at_a_time():
    assert part_size((28, 28, 1)) == part_size((128, 128, 3)) == 500
    assert part_size((3000, 4000, 3)) == 1
    assert part_size((1000, 1000, 1)) == 67
    assert images_at_a_time((28, 28)) == 500
    assert images_at_a_time((128, 128)) == 32
    assert images_at_a_time((1024, 1024)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 63}, "tile must be at least 64 and at most 1024; got 63"),
        ({"tile": 1025}, "tile must be at least 64"),
        ({"overlap": 16}, "overlap needs --tile; got 16 without it"),
        ({"tile": 64, "overlap": 33}, "overlap must be at most half a tile, 32 pixels; got 33"),
        ({"tile": 64, "overlap": -1}, "overlap must be at least 0"),
        ({"tile": 128, "image_size": "127x400"}, "must be 128 to 16384 pixels .* with --tile 128"),
        ({"tile": 128, "image_size": 16385}, "must be 128 to 16384 pixels"),
        ({"image_size": 1025}, "must be 8 to 1024 pixels high and wide; got 1025"),
        ({"tile": 64, "protocol": "corruption"}, "tile is not for protocol corruption"),
        ({"max_pixels": 2**27 + 1}, "max_pixels must be at least 64 and at most 134217728"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AutoencoderConfig(**options)


def test_tiles_are_for_approaches_that_learn_from_normal_images():
    for approach in ("sota", "cnn"):
        with pytest.raises(UserError, match=f"tile is for approaches .*; {approach} learns from"):
            config_of(approach, {"tile": 64})


def test_a_picture_keeps_its_size_and_tiles_fit_into_it(tmp_path):
    for number, size in enumerate([(200, 150), (200, 150), (90, 80)]):
        Image.fromarray(noise(4, *size[::-1])[number]).save(tmp_path / f"{number}.png")
    config = AutoencoderConfig(data_dir=str(tmp_path / "cache"), tile=128)
    assert load_folder(tmp_path, config).train_images.shape == (3, 150, 200, 1)
    uncut = dataclasses.replace(config, tile=None)
    assert load_folder(tmp_path, uncut).train_images.shape == (3, 96, 128, 1)
    for storage in ("memory", "disk"):
        large = dataclasses.replace(config, tile=151, folder=FolderConfig(storage=storage))
        with pytest.raises(UserError, match=r"--tile must be at most .* 200x150 .* file: 90x80\)"):
            load_folder(tmp_path, large)
    with pytest.raises(UserError, match=r"which are 60x70 .*; got 64"):
        anomaly_tf.train(noise(40, 70, 60), approach="autoencoder", tile=64, verbose=0)


@pytest.mark.parametrize(
    "tiling",
    [
        {"tile": 64},
        {"tile": 63, "overlap": 0},
        {"tile": 64, "overlap": 33},
        {"tile": 64, "overlap": -1},
        {"tile": 64.0, "overlap": 8},
        {"tile": 128, "overlap": 8},
        5,
    ],
)
def test_metadata_of_tiles_is_checked(tiling):
    content = on_tiles((100, 120, 1), (1.0,)).info.to_json()
    assert content["tiling"] == {"tile": 64, "overlap": 16}
    assert DetectorInfo.parse(json.dumps(content).encode(), ()).tiling == TILING
    wrong = json.dumps(content | {"tiling": tiling}).encode()
    with pytest.raises(ValueError, match="tiling"):
        DetectorInfo.parse(wrong, ())


# Drawn pictures, and where the bright spot is in those with a defect.
SIZE, SPOT = (150, 230), 12
SPOTS = ((20, 30), (100, 200), (70, 120))


def drawn(seed: int, spot: tuple[int, int] | None = None) -> np.ndarray:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = np.sin(x / 5 + random.uniform(0, 6)) + np.sin(y / 7 + random.uniform(0, 6))
    grey = np.clip(120 + 20 * waves + random.normal(0, 5, SIZE), 0, 255).astype(np.uint8)
    if spot:
        grey[spot[0] : spot[0] + SPOT, spot[1] : spot[1] + SPOT] = 255
    return grey


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Large pictures in the layout of MVTec AD, with masks."""
    folder = tmp_path_factory.mktemp("large")
    for place in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (folder / place).mkdir(parents=True)
    for number in range(12):
        Image.fromarray(drawn(number)).save(folder / f"train/good/{number}.png")
    for number, spot in enumerate(SPOTS):
        Image.fromarray(drawn(100 + number)).save(folder / f"test/good/{number}.png")
        Image.fromarray(drawn(200 + number, spot)).save(folder / f"test/spot/{number}.png")
        mask = np.zeros(SIZE, np.uint8)
        mask[spot[0] : spot[0] + SPOT, spot[1] : spot[1] + SPOT] = 255
        Image.fromarray(mask).save(folder / f"ground_truth/spot/{number}_mask.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    """A run on tiles of pictures on disk, with its evaluation and exports."""
    folder = tmp_path_factory.mktemp("run") / "run"
    anomaly_tf.train(
        photos,
        approach="autoencoder",
        run_dir=folder,
        verbose=0,
        **{"tile": 64, "overlap": 16, "max_pixels": 10**6, "data_dir": str(folder.parent / "data")},
        folder={"storage": "disk"},
        training={"epochs": 2, "steps_per_epoch": 12, "batch_size": 16},
        networks={"latent": 8},
    )
    assert evaluate.main(["--run-dir", str(folder)]) == 0
    for kind in ("tflite", "saved_model"):
        assert export.main(["--run-dir", str(folder), "--format", kind]) == 0
    return folder


def test_a_run_on_tiles_finds_small_defects(run, photos, capsys):
    detector = Detector.load(run)
    assert detector.image_shape == (*SIZE, 1)
    assert detector.input_shape == (64, 64, 1)
    config = load_config(run / "config.yaml")
    assert (config.tile, config.overlap, config.max_pixels) == (64, 16, 10**6)
    assert detector.reading.max_pixels == 10**6
    good, bad = (
        np.stack([detector.read(photos / f"test/{kind}/{number}.png") for number in range(3)])
        for kind in ("good", "spot")
    )
    assert detector.score(good).max() < detector.score(bad).min()
    for (top, left), heat in zip(SPOTS, detector.explain(bad), strict=True):
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert top - 2 <= y < top + SPOT + 2
        assert left - 2 <= x < left + SPOT + 2
    # The threshold is that of pictures: it lies within the scores of the normal ones.
    scores = detector.calibration_scores
    assert len(scores) == detector.info.training.n_validation
    assert scores.min() <= detector.threshold <= scores.max()
    assert {path.stem for path in (run / "plots").iterdir()} >= {"localisation", "anomaly"}


def test_all_runtimes_cut_and_join_alike(run, photos):
    trained = Detector.load(run)
    pictures = np.stack([trained.read(photos / f"test/spot/{number}.png") for number in range(3)])
    exports = run / "export" / "autoencoder.tflite", run / "export" / "autoencoder"
    for exported in map(Detector.load, exports):
        assert exported.info.tiling == Tiling(64, 16)
        assert "largest score of its tiles" in exported.info.preprocessing["tiles"]
        np.testing.assert_allclose(exported.score(pictures), trained.score(pictures), rtol=1e-4)
        np.testing.assert_allclose(
            exported.explain(pictures), trained.explain(pictures), rtol=1e-3, atol=1e-6
        )
        difference = exported.reconstruct(pictures).astype(int) - trained.reconstruct(pictures)
        assert np.abs(difference).max() <= 1


def test_a_saved_model_takes_no_whole_picture_for_a_tile(run):
    import tensorflow as tf

    model = tf.saved_model.load(str(run / "export" / "autoencoder" / "1"))
    serve = model.signatures["serve"]
    assert serve(images=tf.zeros((2, 64, 64, 1), tf.uint8))["score"].shape == (2,)
    with pytest.raises(Exception, match="64"):
        serve(images=tf.zeros((2, *SIZE, 1), tf.uint8))


def test_predict_draws_the_defect_where_it_is(run, photos, tmp_path, capsys):
    files = [str(photos / f"test/spot/{number}.png") for number in range(3)]
    model = str(run / "export" / "autoencoder.tflite")
    arguments = ["--model", model, "--heatmaps", str(tmp_path), "--format", "csv", *files]
    assert predict.main(arguments) == 1
    said = capsys.readouterr()
    scores = [float(line.split(",")[1]) for line in said.out.splitlines()[1:]]
    expected = Detector.load(model).score_files(files)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    for number, (top, left) in enumerate(SPOTS):
        drawn_over = np.asarray(Image.open(tmp_path / f"{number}.png")).astype(int)
        redness = drawn_over[..., 0] - drawn_over[..., 2]
        inside = redness[top : top + SPOT, left : left + SPOT]
        assert inside.mean() > 3 * redness.mean()
    done = ["--model", model, "--max-pixels", "1000", files[0]]
    assert predict.main(done) == 2
    assert "give --max-pixels 34500" in capsys.readouterr().err


def test_a_limit_of_pixels_holds_in_training_too(photos, tmp_path):
    options: dict[str, object] = {"data_dir": str(tmp_path), "max_pixels": 34_499, "verbose": 0}
    with pytest.raises(UserError, match=r"230 x 150.*give max_pixels 34500"):
        anomaly_tf.train(photos, approach="autoencoder", **options)
