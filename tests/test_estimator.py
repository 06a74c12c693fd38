"""`AnomalyDetector` as scikit-learn uses its outlier detectors."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from anomaly_tf import AnomalyDetector

SHORT = {"training__epochs": 2, "training__steps_per_epoch": 20, "training__batch_size": 32}


@pytest.fixture(scope="module")
def images(small_arrays) -> tuple[np.ndarray, np.ndarray]:
    """Real images uint8 (140, 28, 28, 1); 1 for trousers, -1 for T-shirts."""
    images, classes, _, _ = small_arrays
    chosen = np.concatenate([np.flatnonzero(classes == 1)[:100], np.flatnonzero(classes == 0)[:40]])
    return images[chosen], np.where(classes[chosen] == 1, 1, -1)


@pytest.fixture(scope="module")
def fitted(images) -> AnomalyDetector:
    pictures, y = images
    return AnomalyDetector(**SHORT).fit(pictures[y == 1])


def test_scores_are_higher_for_more_normal_images(fitted, images):
    pictures, y = images
    scores = fitted.score_samples(pictures)
    assert scores.dtype == np.float64
    assert roc_auc_score(y, scores) > 0.7
    np.testing.assert_array_equal(scores, -fitted.detector_.score(pictures).astype(np.float64))
    np.testing.assert_allclose(fitted.decision_function(pictures), scores - fitted.offset_)
    expected = np.where(fitted.detector_.predict(pictures) == 1, -1, 1)
    np.testing.assert_array_equal(fitted.predict(pictures), expected)
    assert set(fitted.predict(pictures)) == {1, -1}


def test_a_score_at_the_threshold_is_an_anomaly(fitted, images):
    """As `Detector.predict` has it: `score >= threshold`."""
    pictures, _ = images
    score = fitted.score_samples(pictures[:1])[0]
    fitted.detector_.info.threshold.value, before = -score, fitted.detector_.threshold
    assert fitted.offset_ == score
    assert fitted.predict(pictures[:1]) == [-1] == 1 - 2 * fitted.detector_.predict(pictures[:1])
    fitted.detector_.info.threshold.value = before


def test_parameters_are_those_of_the_constructor():
    estimator = AnomalyDetector("gan", verbose=2, seed=3, training={"epochs": 4})
    assert is_outlier_detector(estimator)
    params = estimator.get_params()
    assert params == {"approach": "gan", "verbose": 2, "seed": 3, "training": {"epochs": 4}}
    assert clone(estimator).get_params() == params
    assert estimator.set_params(seed=5, approach="vae") is estimator
    assert (estimator.get_params()["seed"], estimator.approach) == (5, "vae")
    with pytest.raises(ValueError, match="did you mean 'training__epochs'"):
        estimator.set_params(training__epoch=3)
    with pytest.raises(ValueError, match="did you mean 'vae'"):
        estimator.set_params(approach="vea")
    assert estimator.get_params()["seed"] == 5
    assert "seed=5" in repr(estimator)


@pytest.mark.filterwarnings("error:left out")
def test_it_serves_in_a_pipeline_and_in_cross_validation(images):
    pictures, y = images
    darker = FunctionTransformer(lambda part: (part // 2).astype(np.uint8))
    pipeline = Pipeline([("darker", darker), ("detector", AnomalyDetector(**SHORT))])
    options = {"cv": StratifiedKFold(2), "scoring": "roc_auc", "error_score": "raise"}
    scores = cross_val_score(pipeline, pictures, y, **options)
    assert scores.min() > 0.7
    search = GridSearchCV(pipeline, {"detector__training__epochs": [1]}, refit=False, **options)
    search.fit(pictures, y)
    assert search.best_params_ == {"detector__training__epochs": 1}


def test_it_learns_from_labelled_anomalies(images):
    pictures, y = images
    fitted = AnomalyDetector("gan", **SHORT).fit(pictures, y)
    assert roc_auc_score(y, fitted.decision_function(pictures)) > 0.9
    assert set(fitted.predict(pictures)) == {1, -1}


def test_anomalies_do_not_change_what_learns_from_normal_images(images, monkeypatch):
    pictures, y = images
    given = []

    def note(data, labels, **options):
        given.append((data, labels))
        raise RuntimeError("noted")

    monkeypatch.setattr("anomaly_tf.estimator.train", note)
    names = [f"{number}.png" for number in range(len(y))]
    for data in (pictures, names):
        with pytest.raises(RuntimeError, match="noted"):
            AnomalyDetector("vae").fit(data, y)
    (arrays, no_labels), (files, _) = given
    np.testing.assert_array_equal(arrays, pictures[y == 1])
    assert no_labels is None
    assert files == [name for name, label in zip(names, y, strict=True) if label == 1]
    with pytest.raises(ValueError, match="one label for each of 140 images; got 139"):
        AnomalyDetector("vae").fit(pictures, y[1:])
    with pytest.raises(ValueError, match="marks every image as an anomaly"):
        AnomalyDetector("vae").fit(pictures, np.full(140, -1))


def test_it_takes_lists_of_files(images, tmp_path: Path):
    pictures, y = images
    files = []
    for number, image in enumerate(pictures[y == 1][:30]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    fitted = AnomalyDetector(data_dir=str(tmp_path / "cache"), **SHORT).fit(files)
    np.testing.assert_array_equal(
        fitted.score_samples(files), fitted.score_samples(pictures[y == 1][:30])
    )
    again = AnomalyDetector(data_dir=str(tmp_path / "cache"), **SHORT).fit(np.array(files, object))
    np.testing.assert_array_equal(again.score_samples(files), fitted.score_samples(files))
    with pytest.raises(ValueError, match="no"):
        fitted.predict([tmp_path / "missing.png"])


def test_it_is_pickled_with_its_detector(fitted, images):
    pictures, _ = images
    content = pickle.dumps(fitted)
    again = pickle.loads(content)
    assert again.detector_.run.path != fitted.detector_.run.path
    np.testing.assert_array_equal(again.score_samples(pictures), fitted.score_samples(pictures))
    assert pickle.loads(pickle.dumps(AnomalyDetector(seed=4))).get_params()["seed"] == 4


def test_before_fit_an_error_is_raised(images):
    with pytest.raises(NotFittedError):
        AnomalyDetector().predict(images[0])


@pytest.mark.parametrize("labels", [[0, 1], [1, 2], [True, False], ["good", "bad"], [[1, -1]]])
def test_other_labels_than_scikit_learns_are_refused(labels, images):
    pictures, _ = images
    y = np.resize(np.array(labels), 140) if np.ndim(labels) == 1 else np.ones((140, 2), int)
    with pytest.raises(ValueError, match=r"numpy\.where\(y == 1, -1, 1\)"):
        AnomalyDetector().fit(pictures, y)


def test_a_new_threshold_is_used_and_pickled(images):
    pictures, y = images
    estimator = AnomalyDetector(**SHORT).fit(pictures[y == 1])
    first = estimator.detector_
    first.set_percentile(10)
    again = pickle.loads(pickle.dumps(estimator))
    assert again.offset_ == estimator.offset_ == -first.threshold
    np.testing.assert_array_equal(again.predict(pictures), estimator.predict(pictures))
    folder = first.run.path
    estimator.fit(pictures[y == 1])
    assert folder.is_dir()  # as long as the detector is used
    del first
    assert not folder.exists()


@pytest.mark.parametrize("pictures", ["photos/", Path("photos"), None, (x for x in ())])
def test_a_single_path_is_no_list_of_files(pictures, fitted):
    for method in (AnomalyDetector().fit, fitted.predict):
        with pytest.raises(TypeError, match=r"expected uint8 images .* or a list of image files"):
            method(pictures)


@pytest.mark.parametrize("name", ["data", "labels", "run_dir"])
def test_what_fit_sets_is_no_option(name, images):
    with pytest.raises(ValueError, match=f"option {name} is set by fit"):
        AnomalyDetector(**{name: "x"}).fit(images[0])
