"""The data of a run is compared when the run is opened, and other data is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line, run_script, weighing_detector
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.config import Config, FolderConfig
from anomaly_tf.data import corruption_sets
from anomaly_tf.data.contents import digest_of_source, facts_of
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.data.split_file import open_split, save_split
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo

RANDOM = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The records of a training on its data: configuration, split.json and detector.json."""

    config: Config
    split: Path
    info: DetectorInfo


def trained(config: Config, place: Path) -> Trained:
    """Divides the data of a configuration as `train.py` does, and keeps what it keeps."""
    dataset = open_dataset(config)
    split = make_split(config, dataset)
    save_split(split, dataset, place / "split.json")
    info = weighing_detector((8, 8, 1), (1,)).info
    info.class_names = list(dataset.class_names)
    info.image_shape = list(split.train.images.shape[1:])
    info.approach = config.approach
    info.roles = json.loads(json.dumps(dataclasses.asdict(split.roles)))
    info.bit_depth, info.protocol = dataset.reading.bit_depth, config.protocol
    info.data = facts_of(split, len(dataset.class_names), dataset.digests)
    return Trained(config, place / "split.json", info)


def arrays(path: Path, labels: list | np.ndarray, size: int = 10, **keywords) -> Path:
    """An .npz file of noise."""
    images = RANDOM.integers(0, 256, (len(labels), size, size), np.uint8)
    np.savez(path, **{"images": images, "labels": np.array(labels), **keywords})
    return path


def opened(run: Trained, place: Path | None = None, **changes):
    """Opens the sets of a run again, compared with what it keeps."""
    config = dataclasses.replace(run.config, data=str(place)) if place else run.config
    return open_split(config, run.split, dataclasses.replace(run.info, **changes))


NUMBERS = [0] * 40 + [1] * 10


@pytest.fixture
def of_arrays(tmp_path) -> Trained:
    """A run on an .npz file with labels 0 and 1."""
    path = arrays(tmp_path / "a.npz", NUMBERS)
    return trained(AutoencoderConfig(data=str(path), data_dir=str(tmp_path)), tmp_path)


def test_arrays_with_the_same_content_elsewhere_are_accepted(of_arrays, tmp_path, capsys):
    moved = shutil.copy(tmp_path / "a.npz", tmp_path / "moved.npz")
    before, after = opened(of_arrays), opened(of_arrays, moved)
    np.testing.assert_array_equal(after.test.images, before.test.images)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["good"] * 40 + ["defect"] * 10, "its classes are defect, good, those of the run 0, 1"),
        (np.array(NUMBERS) + 1, "its classes are 1, 2, those of the run 0, 1"),
        ([*NUMBERS[:-1], 2], "its classes are 0, 1, 2, those of the run 0, 1"),
    ],
)
def test_other_classes_are_refused(labels, words, of_arrays, tmp_path):
    with np.load(tmp_path / "a.npz") as file:
        other = arrays(tmp_path / "b.npz", labels, images=file["images"])
    with pytest.raises(UserError, match=rf"b\.npz is not the data .*{words}; .*--data"):
        opened(of_arrays, other)


def test_images_of_another_size_are_refused(of_arrays, tmp_path):
    other = arrays(tmp_path / "b.npz", NUMBERS, size=12)
    with pytest.raises(UserError, match="its images are 12x12x1, those of the run 10x10x1"):
        opened(of_arrays, other)


def grown(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([images[:3] // 2, images]), np.concatenate([labels[:3], labels])


def one_pixel(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images[17, 3, 3] ^= 1
    return images, labels


def one_label(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels[17] = 1
    return images, labels


@pytest.mark.parametrize("change", [grown, one_pixel, one_label])
def test_arrays_that_changed_are_refused(change, of_arrays, tmp_path):
    with np.load(tmp_path / "a.npz") as file:
        images, labels = change(file["images"].copy(), file["labels"].copy())
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    with pytest.raises(UserError, match=r"a\.npz is not the data .* other images or classes"):
        opened(of_arrays)


def test_a_run_of_an_earlier_version_is_compared_as_far_as_it_can_be(of_arrays, tmp_path, capsys):
    assert len(opened(of_arrays, data=None).test)
    said = capsys.readouterr().err
    assert said.startswith("note: this run is from an earlier version")
    assert said.count("\n") == 1
    other = arrays(tmp_path / "b.npz", NUMBERS, size=12)
    with pytest.raises(UserError, match="its images are 12x12x1"):
        opened(of_arrays, other, data=None)


def test_the_classes_of_a_run_count_as_in_its_training(tmp_path):
    # An earlier version took the class that comes first by the alphabet.
    path = arrays(tmp_path / "a.npz", ["good"] * 40 + ["defect"] * 30)
    config = AutoencoderConfig(data=str(path), data_dir=str(tmp_path), protocol="corruption")
    before = trained(config, tmp_path)
    assert before.info.roles["normal"] == [1]
    every = opened(before, data=None, roles={"normal": [0, 1], "seen": [], "unseen": []})
    assert every.roles.normal == (0, 1)
    for roles in ({"normal": [2], "seen": [], "unseen": []}, {"normal": [0]}, {}):
        with pytest.raises(UserError, match="damaged"):
            opened(before, data=None, roles=roles)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twenty normal images and six anomalies."""
    for name, count in (("normal", 20), ("dent", 6)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            picture = RANDOM.integers(0, 256, (10, 12), np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{number:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def of_files(photos, tmp_path) -> Trained:
    """A run on those files."""
    return trained(AutoencoderConfig(data=str(photos), data_dir=str(tmp_path)), tmp_path)


def files_of(run: Trained, name: str) -> list[str]:
    """The normal files of a set."""
    files = json.loads(run.split.read_text())[name]["files"]
    return [file for file in files if file.startswith("normal")]


def test_a_folder_that_was_moved_or_has_more_files_is_accepted(of_files, photos, tmp_path, capsys):
    moved = shutil.move(photos, tmp_path / "moved")
    shutil.copy(moved / "normal" / "00.png", moved / "normal" / "later.png")
    assert len(opened(of_files, moved).train) == len(files_of(of_files, "train"))
    assert capsys.readouterr().err == ""


def test_pictures_that_were_replaced_under_their_names_are_counted(of_files, photos):
    for name in ("train", "test"):
        file = photos / files_of(of_files, name)[0]
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    with pytest.raises(UserError, match="images replaced under their names: 2 ") as refused:
        opened(of_files)
    assert "test set" not in str(refused.value)


def test_pictures_of_training_in_the_test_set_are_counted(of_files, photos):
    learnt, tested = files_of(of_files, "validation")[0], files_of(of_files, "test")[1]
    shutil.copy(photos / learnt, photos / tested)
    words = rf"training or validation images that are now in the test set: 1 \(first: {tested}\)"
    with pytest.raises(UserError, match=words):
        opened(of_files)


def test_masks_that_were_replaced_or_are_gone_are_named(tmp_path, capsys):
    photos = tmp_path / "photos"
    for place, count in (("train/good", 9), ("test/good", 3), ("test/dent", 3)):
        (photos / place).mkdir(parents=True)
        for number in range(count):
            picture = RANDOM.integers(0, 256, (10, 12), np.uint8)
            Image.fromarray(picture).save(photos / place / f"{number}.png")
    truth = photos / "ground_truth" / "dent"
    truth.mkdir(parents=True)
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 4:6] = 255
    for number in range(3):
        Image.fromarray(mask).save(truth / f"{number}.png")
    run = trained(AutoencoderConfig(data=str(photos), data_dir=str(tmp_path)), tmp_path)
    assert len(opened(run).masks) == 3
    assert capsys.readouterr().err == ""
    Image.fromarray(mask[::-1]).save(truth / "1.png")
    assert len(opened(run).masks) == 3
    said = capsys.readouterr().err
    assert "masks replaced since training: 1 (first: ground_truth/dent/1.png)" in said
    assert said.count("\n") == 1
    (truth / "2.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 18 files .*ground_truth/dent/2\.png"):
        opened(run)


def test_the_digest_of_a_source_is_that_of_its_content(photos, tmp_path):
    before = digest_of_source(str(photos))
    assert digest_of_source(str(shutil.copytree(photos, tmp_path / "copy"))) == before
    (photos / "dent" / "00.png").rename(photos / "normal" / "moved.png")
    assert digest_of_source(str(photos)) not in (before, None)
    file = arrays(tmp_path / "a.npz", NUMBERS)
    before = digest_of_source(str(file))
    arrays(file, NUMBERS)
    assert digest_of_source(str(file)) not in (before, None)
    assert digest_of_source("fashion_mnist") is None


def test_a_split_that_was_changed_is_not_that_of_the_run(of_files):
    content = json.loads(of_files.split.read_text())
    for key in ("files", "classes", "digests"):
        content["test"][key].append(content["train"][key].pop())
    of_files.split.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its training, test sets hold other images"):
        opened(of_files)


def test_a_split_of_an_earlier_version_has_no_digests(of_files, photos, capsys):
    content = json.loads(of_files.split.read_text())
    for name in ("train", "validation", "test"):
        del content[name]["digests"]
    of_files.split.write_text(json.dumps(content))
    file = photos / files_of(of_files, "test")[0]
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    assert len(opened(of_files, data=None).test)
    assert "wrote no digests" in capsys.readouterr().err
    with pytest.raises(UserError, match="its test set holds other images"):
        opened(of_files)


def test_images_on_disk_under_corruption_are_compared_as_they_were_kept(
    photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(corruption_sets, "MAX_CORRUPTED", 2)
    disk = FolderConfig(storage="disk")
    config = AutoencoderConfig(
        data=str(photos), data_dir=str(tmp_path), protocol="corruption", folder=disk
    )
    run = trained(config, tmp_path)
    assert run.info.data.n_test == 2
    assert opened(run).test.labels.tolist() == [0, 0, *[1] * 6]
    # As train.py --resume does, which divides the folder again.
    make_split(config, open_dataset(config), run.info)


def test_a_configuration_of_another_protocol_or_approach_is_refused(of_files):
    for name, value in (("protocol", "corruption"), ("approach", "vae")):
        setattr(of_files.info, name, value)
        with pytest.raises(UserError, match=rf"has {name} .* and its detector\.json {value}"):
            opened(of_files, data=of_files.info.data)
        setattr(of_files.info, name, getattr(of_files.config, name))
    opened(of_files)


@pytest.mark.parametrize(
    "script",
    [("evaluate.py",), ("export.py", "--format", "tflite")],
    ids=lambda script: script[0],
)
def test_scripts_compare_before_tensorflow_is_loaded(
    script, trained_run, small_arrays, without_tensorflow, tmp_path
):
    images, labels, test_images, test_labels = small_arrays
    other = tmp_path / "other.npz"
    np.savez(other, x_train=images, y_train=labels, x_test=test_images[1:], y_test=test_labels[1:])
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    name, *options = script
    done = run_script(
        name, "--run-dir", run, "--data", other, *options, env=without_tensorflow, cwd=tmp_path
    )
    assert_one_line(done, "other.npz is not the data that the run was trained on: its test set")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_training_does_not_go_on_with_other_data(
    trained_run, small_folder, without_tensorflow, tmp_path
):
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    info = json.loads((run / "detector.json").read_text())
    info["training"]["status"] = "interrupted"
    info["data"]["validation"] = "0" * 64
    (run / "detector.json").write_text(json.dumps(info))
    done = run_script("train.py", "--resume", run, env=without_tensorflow)
    assert_one_line(done, "is not the data that the run was trained on: its validation set holds")
