"""Regions: nothing outside of `--roi` is learnt, scored, drawn or measured."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import normal_set, weighing_detector
from PIL import Image
from tensorflow.python.framework.config import disable_op_determinism

import anomaly_tf
from anomaly_tf import Detector
from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.configs import load_config
from anomaly_tf.cli import evaluate, export, predict, train
from anomaly_tf.config import FolderConfig
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.given import dataset_of_arrays
from anomaly_tf.data.images import Reading, read_image
from anomaly_tf.data.mask_rules import pair_masks
from anomaly_tf.data.roi import RegionFolder, describe, open_roi, read_region
from anomaly_tf.data.split_file import open_split
from anomaly_tf.data.tiles import tiles_of
from anomaly_tf.deploy.overlay import overlay
from anomaly_tf.detection.localisation import localisation_metrics
from anomaly_tf.detection.tiling import infer_in_tiles
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import RUN_FIELDS, DetectorInfo
from anomaly_tf.runs.directory import open_run
from anomaly_tf.runs.region import BLANK, Region
from anomaly_tf.runs.sections import Tiling

HEIGHT, WIDTH = 112, 128
# Its edges lie within pixels of the detector's size, a half of the pictures'.
INSIDE = np.zeros((HEIGHT, WIDTH), bool)
INSIDE[21:91, 17:111] = True
SIZE = (HEIGHT // 2, WIDTH // 2)
TRAINING = (
    *("--approach", "vae", "--image-size", f"{SIZE[0]}x{SIZE[1]}", "--deterministic"),
    *("--training.epochs", "2", "--training.steps-per-epoch", "3", "--training.batch-size", "8"),
)


def save(path: Path, pixels: np.ndarray) -> Path:
    """Writes an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_mask(path: Path, inside: np.ndarray = INSIDE) -> Path:
    """Writes a mask, white inside."""
    return save(path, np.uint8(255) * inside)


def picture(number: int, outside: int, defect: tuple[int, int] | None = None) -> np.ndarray:
    """A picture of noise whose pixels outside of the region are another random number's."""
    own, junk = np.random.default_rng(number), np.random.default_rng(1000 * outside + number)
    pixels = own.integers(100, 140, (HEIGHT, WIDTH), np.uint8)
    pixels = np.where(INSIDE, pixels, junk.integers(0, 256, (HEIGHT, WIDTH), np.uint8))
    if defect:
        pixels[defect[0] : defect[0] + 12, defect[1] : defect[1] + 12] = 255
    return pixels


WITHIN, BEYOND = (50, 60), (95, 4)


def draw_photos(folder: Path, outside: int) -> Path:
    """Photographs in the layout of MVTec AD, with junk outside of the region."""
    for number in range(20):
        save(folder / "train" / "good" / f"{number}.png", picture(number, outside))
    for number in range(20, 25):
        save(folder / "test" / "good" / f"{number}.png", picture(number, outside))
        name = f"{number}.png"
        save(folder / "test" / "dent" / name, picture(100 + number, outside, WITHIN))
        truth = np.zeros_like(INSIDE)
        truth[WITHIN[0] : WITHIN[0] + 12, WITHIN[1] : WITHIN[1] + 12] = True
        truth[BEYOND[0] : BEYOND[0] + 12, BEYOND[1] : BEYOND[1] + 12] = True
        save_mask(folder / "ground_truth" / "dent" / name, truth)
    return folder


def trained(photos: Path, roi: Path, run: Path, *more: str) -> Path:
    """Trains a run in this process."""
    options = [*TRAINING, "--data", str(photos), "--data-dir", str(run.parent / "cache")]
    assert train.main([*options, "--roi", str(roi), "--run-dir", str(run), *more]) == 0
    return run


@pytest.fixture(scope="module", autouse=True)
def determinism() -> Iterator[None]:
    """Lets the tests of other modules use all operations again."""
    yield
    disable_op_determinism()


@pytest.fixture(scope="module")
def place(made_once) -> Path:
    """Two folders of photographs that differ outside of a mask, and a run on each."""

    def make(folder: Path) -> None:
        save_mask(folder / "mask.png")
        for outside in (1, 2):
            photos = draw_photos(folder / f"photos{outside}", outside)
            trained(photos, folder / "mask.png", folder / f"run{outside}")
        assert evaluate.main(["--run-dir", str(folder / "run1")]) == 0
        assert export.main(["--run-dir", str(folder / "run1"), "--format", "tflite"]) == 0
        assert export.main(["--run-dir", str(folder / "run1"), "--format", "saved_model"]) == 0

    return made_once("roi", make)


@pytest.fixture(scope="module")
def by_folder(place, made_once) -> Path:
    """A run with a mask for each picture, and its masks; those of the tests differ."""

    def make(folder: Path) -> None:
        photos = place / "photos1"
        for file in sorted(photos.rglob("*.png")):
            name = file.relative_to(photos)
            if name.parts[0] != "ground_truth":
                inside = np.roll(INSIDE, 4 if name.parts[0] == "test" else 0, axis=1)
                save_mask(folder / "masks" / name.parent / f"{name.stem}_mask.png", inside)
        trained(photos, folder / "masks", folder / "run")

    return made_once("roi-folder", make)


def said(capsys: pytest.CaptureFixture, command: Callable[[list[str]], int], *options: object):
    """The exit status, stdout and stderr of a command."""
    capsys.readouterr()
    status = command([*map(str, options)])
    return (status, *capsys.readouterr())


def scores_of(stdout: str) -> list[str]:
    return [line.split(",")[1] for line in stdout.splitlines()[1:]]


def test_pixels_outside_change_nothing_that_is_learnt(place):
    first, second = (json.loads((place / f"run{n}/detector.json").read_text()) for n in (1, 2))
    assert first["image_score"] == "maximum"
    for name in ("calibration", "threshold", "score_statistics", "heat_scale", "roi"):
        assert first[name] == second[name], name
    assert len(first["calibration"]["scores"]) >= 2


def test_pixels_outside_change_no_score_and_no_map(place, tmp_path):
    detectors = [Detector.load(place / f"run{number}") for number in (1, 2)]
    files = [
        [save(tmp_path / f"{outside}-{defect}.png", picture(50, outside, defect))]
        for outside, defect in ((1, None), (2, None), (3, BEYOND))
    ]
    scores = [detector.score_files(file)[0] for detector in detectors for file in files]
    assert len(set(scores)) == 1
    maps = [d.explain(d.read(file[0])[None]) for d in detectors for file in files]
    for other in maps[1:]:
        np.testing.assert_array_equal(maps[0], other)
    inside = Region(INSIDE).at(*SIZE)
    assert not maps[0][0][~inside].any()
    assert maps[0].max() > 0
    defect = save(tmp_path / "defect.png", picture(50, 1, WITHIN))
    assert detectors[0].score_files([defect])[0] > 1.1 * scores[0]


def test_arrays_are_blanked_too(place):
    detector = Detector.load(place / "run1")
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 1), np.uint8)
    inside = detector.region.at(*SIZE)
    others = np.where(inside[..., np.newaxis], images, 255 - images)
    np.testing.assert_array_equal(detector.score(images), detector.score(others))
    assert not (detector.explain(others) * ~inside).any()
    assert detector.score(images[:0]).shape == (0,)


def test_the_score_is_the_maximum_inside(place):
    run = Detector.load(place / "run1")
    image = run.read(place / "photos1/test/dent/20.png")[np.newaxis]
    outputs = run.infer(image, ("score", "error_map"))
    raw = run._answers(image, ("score", "error_map"))
    expected = raw["score"] - raw["error_map"].max() + outputs["error_map"].max()
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-6)
    # The far corner of a map with its maximum outside.
    drawn = weighing_detector((8, 10, 1), (1,), image_score="maximum")
    inside = np.zeros((8, 10), bool)
    inside[:4, :5] = True
    bright = np.zeros((2, 8, 10, 1), np.uint8)
    bright[0, 7, 9], bright[1, 1, 1] = 255, 255
    maps = drawn.within(inside).explain(bright)
    # Blanked pixels are mid grey in this map, and do not count.
    assert maps.max(axis=(1, 2)).tolist() == [0, 1]
    assert drawn.explain(bright).max(axis=(1, 2)).tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["run1", "run1/export/vae.tflite", "run1/export/vae"])
def test_the_mask_travels(kind, place, tmp_path, capsys):
    model = place / kind
    detector = Detector.load(model)
    np.testing.assert_array_equal(detector.region.inside, INSIDE)
    files = [place / "photos1/test/dent/20.png", place / "photos1/test/good/20.png"]
    files.append(save(tmp_path / "beyond.png", picture(20, 3, BEYOND)))
    options = [*files, "--model", model, "--format", "csv"]
    _, out, err = said(capsys, predict.main, *options)
    assert not err
    scores = scores_of(out)
    assert scores[1] == scores[2] != scores[0]
    assert float(scores[1]) == pytest.approx(
        float(Detector.load(place / "run1").score_files(files[1:2])[0]), rel=1e-3
    )
    everything = save_mask(tmp_path / "all.png", np.ones_like(INSIDE))
    _, out, _ = said(capsys, predict.main, *options, "--roi", everything)
    scores = scores_of(out)
    assert scores[1] != scores[2]


def test_nothing_is_drawn_outside(place, tmp_path, capsys):
    file = place / "photos1/test/dent/20.png"
    options = [file, "--model", place / "run1/export/vae.tflite", "--heatmaps", tmp_path / "heat"]
    status, _, err = said(capsys, predict.main, *options)
    assert status in (0, 1)
    assert not err
    drawn = np.asarray(Image.open(tmp_path / "heat" / "20.png"))
    grey = np.repeat(np.asarray(Image.open(file))[..., np.newaxis], 3, axis=-1)
    np.testing.assert_array_equal(drawn[~INSIDE], grey[~INSIDE])
    assert (drawn != grey).any()
    strong = np.ones((2, 2), np.float32)
    inside = np.eye(4, dtype=bool)
    painted = np.asarray(overlay(Image.new("RGB", (4, 4), "white"), strong, inside))
    np.testing.assert_array_equal((painted != 255).any(axis=-1), inside)


def test_an_evaluation_measures_the_region_only(place, tmp_path):
    metrics = json.loads((place / "run1/metrics.json").read_text())
    assert metrics["n_masks"] == 5
    other = tmp_path / "other"
    assert evaluate.main(["--run-dir", str(place / "run2"), "--output", str(other)]) == 0
    again = json.loads((other / "metrics.json").read_text())
    for name in ("auroc", "pixel_auroc", "aupro", "normal_scores", "threshold"):
        assert metrics[name] == again[name], name
    assert (place / "run1/plots/localisation.png").is_file()


def test_pixels_outside_do_not_count_as_found_or_missed():
    masks = np.zeros((1, 6, 6), bool)
    masks[0, :2, :2] = masks[0, 4:, 4:] = True
    maps = np.zeros((1, 6, 6), np.float32)
    maps[0, :2, :2] = 1
    maps[0, 2:4, 4:] = 2
    inside = np.ones((6, 6), bool)
    inside[:, 4:] = False
    assert localisation_metrics(masks, maps, inside) == {
        "pixel_auroc": 1,
        "aupro": 1,
        "n_masks": 1,
    }
    assert localisation_metrics(masks, maps)["pixel_auroc"] < 1
    with pytest.raises(ValueError, match="defect pixels and normal ones; got 0"):
        localisation_metrics(masks & ~inside, maps, inside)


def test_a_report_names_the_region(place, by_folder):
    mask = read_region(place / "mask.png")
    assert describe(mask) == [f"roi: {place / 'mask.png'}, 46% of the picture"]
    named, warned = describe(Region(np.ones((9, 9), bool), "all.png"))
    assert named.endswith("100% of the picture")
    assert warned.startswith("WARNING: all.png marks the whole picture")
    folder = open_roi(by_folder / "masks", place / "photos1", ["train/good/0.png"])
    assert describe(folder) == [f"roi: {by_folder / 'masks'}, a mask for each of 1 pictures"]


def test_arrays_have_one_mask(tmp_path, capsys):
    arrays = np.random.default_rng(0).integers(0, 255, (24, 32, 32), np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[5:21, 7:23] = True
    roi = save_mask(tmp_path / "mask.png", mask)
    config = AutoencoderConfig(roi=str(roi), image_size=16)
    junk = np.where(mask, arrays, 255 - arrays)
    read = [dataset_of_arrays(images, None, config).train_images for images in (arrays, junk)]
    np.testing.assert_array_equal(*read)
    options = {"training__epochs": 1, "training__steps_per_epoch": 2, "image_size": 16}
    detector = anomaly_tf.train(arrays, roi=roi, **options)
    assert "mask.png, 25% of the picture" in capsys.readouterr().out
    roi.unlink()  # the run has its own copy
    detector.export(tmp_path / "first.tflite")
    assert Detector.load(tmp_path / "first.tflite").region.share == mask.mean()
    with pytest.raises(UserError, match=r"is a folder, and arrays have no names"):
        anomaly_tf.train(arrays, roi=tmp_path, **options)
    save_mask(roi, mask)
    with pytest.raises(UserError, match=r"mask.png is 32x32, and an image .* is 32x31"):
        anomaly_tf.train(arrays[:, :31], roi=roi, **options)


def test_a_mask_for_each_picture(by_folder, place, tmp_path, capsys):
    run, masks, photos = by_folder / "run", by_folder / "masks", place / "photos1"
    detector = Detector.load(run)
    assert detector.region is None
    assert detector.info.roi.source == str(masks)
    assert evaluate.main(["--run-dir", str(run)]) == 0
    assert json.loads((run / "metrics.json").read_text())["n_masks"] == 5
    assert export.main(["--run-dir", str(run), "--format", "tflite"]) == 0
    file = photos / "test" / "dent" / "20.png"
    for model in (run, run / "export" / "vae.tflite"):
        options = (file, "--model", model, "--format", "csv")
        with pytest.raises(UserError, match=r"trained with a mask for each picture .*--roi"):
            predict.main([*map(str, options)])
        own = masks / "test" / "dent"
        _, out, err = said(capsys, predict.main, *options, "--roi", own)
        assert not err
        for roi, file_of_mask in ((own, None), (own / "20_mask.png", own / "20_mask.png")):
            _, again, _ = said(capsys, predict.main, *options, "--roi", roi)
            assert scores_of(again) == scores_of(out), file_of_mask
    with pytest.raises(UserError, match="mask for each picture"):
        detector.score_files([file])
    with pytest.raises(UserError, match="mask for each picture"):
        detector.read(file)
    image = detector.read(file, roi=own)[np.newaxis]
    inside = read_region(own / "20_mask.png").at(*SIZE)
    score = detector.score_files([file], roi=own)
    np.testing.assert_allclose(detector.within(inside).score(image), score, rtol=1e-6)
    assert (image[0][~inside] == BLANK).all()


def test_another_mask_is_refused(place, by_folder, tmp_path):
    for run, name in ((place / "run1", "mask.png"), (by_folder / "run", "masks")):
        copy = tmp_path / name
        (shutil.copy if name == "mask.png" else shutil.copytree)(run.parent / name, copy)
        opened = open_run(run)[0]
        config = load_config(opened.config, roi=str(copy))
        split = open_split(config, opened.split)
        assert split.test.images[:1].shape == (1, *SIZE, 1)
        changed = copy if copy.is_file() else copy / "test" / "good" / "20_mask.png"
        save_mask(changed, np.roll(INSIDE, 9, axis=0))
        with pytest.raises(UserError, match=r"not what the run was trained with as --roi.*restore"):
            open_split(config, opened.split)
        for command in (evaluate.main, export.main):
            more = ["--format", "tflite"] if command is export.main else []
            with pytest.raises(UserError, match="not what the run was trained with"):
                command([*more, "--run-dir", str(run), "--roi", str(copy)])
    # A fixed mask is in the run itself.
    opened = open_run(place / "run1")[0]
    split = open_split(load_config(opened.config, roi=str(tmp_path / "none.png")), opened.split)
    np.testing.assert_array_equal(split.roi.inside, INSIDE)


def test_training_does_not_resume_with_another_mask(place, tmp_path, monkeypatch):
    mask = save_mask(tmp_path / "mask.png")
    run = tmp_path / "run"
    options = [*TRAINING, "--data", str(place / "photos1"), "--data-dir", str(tmp_path / "cache")]
    options += ["--roi", str(mask), "--run-dir", str(run)]
    from anomaly_tf.training import callbacks

    ended = callbacks.Checkpoints.on_epoch_end

    def interrupt(self, epoch, logs=None):
        ended(self, epoch, logs)
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.Checkpoints, "on_epoch_end", interrupt)
    assert train.main(options) == 130
    monkeypatch.undo()
    resume = ["--resume", str(run), "--data-dir", str(tmp_path / "cache")]
    save_mask(mask, ~INSIDE)
    with pytest.raises(UserError, match="not what the run was trained with"):
        train.main(resume)
    (run / "detector.json").unlink()  # the checkpoint knows it, too
    with pytest.raises(UserError, match="the data has changed since it started"):
        train.main(resume)
    save_mask(mask)
    assert train.main(resume) == 0


SMALL = np.zeros((HEIGHT, WIDTH), bool)
SMALL[0, :7] = True
WRONG = {
    "size": (INSIDE[:-1], r"25 of 25 pictures .*mask.png is 128x111, .*0.png is 128x112"),
    "nothing": (np.zeros_like(INSIDE), r"mask.png leaves 0 pixels, and at least 8"),
    "few": (SMALL, r"mask.png leaves 7 pixels"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_mask_is_refused(kind, place, tmp_path):
    inside, words = WRONG[kind]
    mask = save_mask(tmp_path / "mask.png", inside)
    words = words.replace("25 of 25", "30 of 30") if kind == "size" else words
    refuse(place, mask, words, tmp_path)


def refuse(place: Path, roi: object, words: str, tmp_path: Path, *more: str) -> None:
    """Checks that a training is refused in one line before it writes anything."""
    options = [*TRAINING, "--data", str(place / "photos1"), "--data-dir", str(tmp_path / "cache")]
    with pytest.raises(UserError, match=words) as raised:
        train.main([*options, "--roi", str(roi), "--run-dir", str(tmp_path / "run"), *more])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_other_wrong_regions_are_refused(place, by_folder, tmp_path):
    refuse(place, tmp_path / "none.png", "--roi: cannot read .*none.png", tmp_path)
    (tmp_path / "empty").mkdir()
    refuse(place, tmp_path / "empty", "empty holds no masks", tmp_path)
    (tmp_path / "text.png").write_text("no image")
    refuse(place, tmp_path / "text.png", "--roi: .*text.png is not an image", tmp_path)
    photo = place / "photos1/train/good/0.png"
    refuse(place, photo, "lies in the data", tmp_path)
    copy = Path(shutil.copy(photo, tmp_path / "photo.png"))
    refuse(place, copy, "photo.png looks like a picture, not like a mask", tmp_path)
    masks = Path(shutil.copytree(by_folder / "masks", tmp_path / "masks"))
    (masks / "test" / "good" / "21_mask.png").unlink()
    words = r"holds no mask for 1 of 30 pictures \(first: test/good/21.png\)"
    refuse(place, masks, words, tmp_path)
    save_mask(masks / "test" / "good" / "21_mask.png", INSIDE[:, 1:])
    refuse(place, masks, r"21_mask.png is 127x112, .*21.png is 128x112", tmp_path)
    save_mask(masks / "test" / "good" / "21_mask.png", SMALL)
    refuse(place, masks, "21_mask.png leaves 7 pixels", tmp_path)
    save_mask(masks / "test" / "good" / "21_mask.png")
    thin = np.zeros_like(INSIDE)
    thin[::4, ::4] = True
    refuse(place, save_mask(tmp_path / "thin.png", thin), "thin.png leaves 0 pixels of a", tmp_path)
    with pytest.raises(UserError, match=r"option --roi is empty"):
        train.main(["--roi", ""])
    more = ("--approach", "contrastive", "--protocol", "corruption")
    refuse(place, masks, "protocol corruption takes one mask", tmp_path, *more)


def test_predict_counts_pictures_of_another_size(place, tmp_path, capsys):
    photo = place / "photos1/test/good/20.png"
    other = save(tmp_path / "other.png", picture(1, 1)[:50])
    model = place / "run1/export/vae.tflite"
    status, out, err = said(capsys, predict.main, photo, other, "--model", model)
    assert status == 2
    assert re.search(r"error: .*mask.png is 128x112, and .*other.png is 128x50;.*skipped", err)
    assert "1 unreadable" in out
    with pytest.raises(UserError, match="--roi: cannot read"):
        predict.main([str(photo), "--model", str(model), "--roi", str(tmp_path / "none.png")])


def test_masks_are_found_by_their_place_or_unique_name():
    pairs = pair_masks(
        ["a/1.png", "b/1.png", "b/2.jpg"], ["a/1.png", "b/1_mask.gif", "2.png"], False
    )
    assert pairs == {"a/1.png": "a/1.png", "b/1.png": "b/1_mask.gif", "b/2.jpg": "2.png"}
    # A name that two masks have says nothing; a mask may have a name like that of a mask.
    assert pair_masks(["c/1.png"], ["a/1.png", "b/1.png"], False) == {}
    assert pair_masks(["label_1.png"], ["label_1.png"], False) == {"label_1.png": "label_1.png"}


def test_blanking_comes_before_and_after_resizing(tmp_path):
    mask = save_mask(tmp_path / "mask.png")
    region = open_roi(mask, tmp_path, [])
    read = [
        read_image(save(tmp_path / f"{n}.png", picture(7, n)), (*SIZE, 1), Reading(roi=region))
        for n in (1, 2)
    ]
    np.testing.assert_array_equal(*read)
    inside = region.at(*SIZE)
    assert (read[0][~inside] == BLANK).all()
    # The edge of the mask divides pixels; one whose larger part is inside mixes both.
    whole = read_image(tmp_path / "1.png", (*SIZE, 1))
    core = Region(INSIDE).at(*SIZE)[..., np.newaxis].copy()
    core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    np.testing.assert_array_equal(read[0][core], whole[core])
    colour = save(tmp_path / "colour.png", np.repeat(picture(1, 1)[..., np.newaxis], 3, axis=-1))
    assert read_image(colour, (*SIZE, 3), Reading(roi=region))[0, 0].tolist() == [BLANK] * 3


@pytest.mark.parametrize("kind", ["mask", "folder"])
def test_decoded_images_are_kept_for_each_mask(kind, tmp_path):
    roi = tmp_path / kind
    files = [f"{number}.png" for number in range(4)]
    masks = [roi.with_suffix(".png")] if kind == "mask" else [roi / file for file in files]
    for file in files:
        save(tmp_path / "photos" / file, picture(1, 1))
    read = []
    for shift in (0, 9, 0):
        for mask in masks:
            save_mask(mask, np.roll(INSIDE, shift, axis=1))
        config = AutoencoderConfig(
            data_dir=str(tmp_path / "cache"),
            image_size=f"{SIZE[0]}x{SIZE[1]}",
            roi=str(masks[0] if kind == "mask" else roi),
            folder=FolderConfig(storage="disk"),
        )
        read.append(load_folder(tmp_path / "photos", config).train_images[0:1])
        inside = Region(np.roll(INSIDE, shift, axis=1)).at(*SIZE)
        assert (read[-1][0][~inside] == BLANK).all()
    assert (read[0] != read[1]).any()
    np.testing.assert_array_equal(read[0], read[2])


def test_a_stored_mask_is_checked(place):
    content = json.loads((place / "run1/detector.json").read_text())

    def parsed(**changes: object) -> DetectorInfo:
        roi = {
            name: value for name, value in (content["roi"] | changes).items() if value is not None
        }
        return DetectorInfo.parse(json.dumps(content | {"roi": roi}).encode(), RUN_FIELDS)

    np.testing.assert_array_equal(parsed().roi.region.inside, INSIDE)
    assert parsed(mask=None).roi.region is None
    tiny = Region(np.eye(7, dtype=bool)).to_png()
    for wrong in ("", "?", "aGVsbG8=", 7, content["roi"]["mask"][:40], tiny):
        with pytest.raises(ValueError, match=r"roi\.mask must be"):
            parsed(mask=wrong)
    with pytest.raises(ValueError, match=r"roi\.sha256"):
        parsed(sha256="1")
    with pytest.raises(ValueError, match=r"no roi\.source"):
        parsed(source=None)


def test_a_folder_of_masks_is_read_when_it_is_needed(by_folder, place):
    photos = place / "photos1"
    files = ["train/good/0.png", "test/good/20.png"]
    roi = open_roi(by_folder / "masks", photos, files)
    assert isinstance(roi, RegionFolder)
    shifted = roi.of(photos / files[1])
    np.testing.assert_array_equal(shifted.inside, np.roll(INSIDE, 4, axis=1))
    with pytest.raises(UserError, match="holds no mask for"):
        roi.of(photos / "test/good/99.png")


def test_tiles_outside_are_neither_learnt_nor_scored():
    tiling, pictures = Tiling(64, 16), np.zeros((2, 150, 201, 1), np.uint8)
    inside = np.zeros((2, 150, 201), bool)
    inside[0, :20, :20] = inside[1, 60:70, 100:110] = True
    pictures[0, 10, 10], pictures[:, 140, 190] = 100, 255
    seen = []

    def brightness(tiles: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        seen.append(len(tiles))
        maps = tiles[..., 0].astype(np.float32)
        outputs = {"score": maps.max(axis=(1, 2)) + 0.5, "error_map": maps, "reconstruction": tiles}
        return {name: outputs[name] for name in names}

    names = ("score", "error_map", "reconstruction")
    found = infer_in_tiles(brightness, pictures, names, tiling, inside, by_maximum=True)
    # The second region lies in two rows and two columns of tiles.
    assert sum(seen) == 1 + 4
    assert found["score"].tolist() == [100.5, 0.5]
    assert found["error_map"][0, 10, 10] == pytest.approx(100)
    assert not (found["error_map"] * ~inside).any()
    assert found["reconstruction"][1, 149, 200] == BLANK
    whole = tiles_of(normal_set(pictures), tiling)
    learnt = tiles_of(normal_set(pictures), tiling, Region(inside[1]))
    assert (len(whole), len(learnt)) == (2 * 12, 2 * 4)
    assert tiles_of(normal_set(pictures), tiling, Region(inside[0]))[:1].max() == 100


def test_a_region_of_pictures_in_tiles(place, tmp_path):
    run = trained(
        *(place / "photos1", place / "mask.png", tmp_path / "run"),
        *("--image-size", f"{HEIGHT}x{WIDTH}", "--tile", "64", "--overlap", "16"),
    )
    detector = Detector.load(run)
    files = [
        save(tmp_path / f"{outside}.png", picture(50, outside, defect))
        for outside, defect in ((1, None), (2, BEYOND), (3, WITHIN))
    ]
    scores = detector.score_files(files)
    assert scores[0] == scores[1] < scores[2]
    maps = detector.explain(np.stack([detector.read(file) for file in files]))
    assert not (maps * ~INSIDE).any()
    np.testing.assert_array_equal(maps[0], maps[1])
