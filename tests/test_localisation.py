"""Pixel AUROC and AU-PRO compared with hand-computed numbers, and the plot of the maps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from anomaly_tf.detection.localisation import (
    area_under_per_region_overlap,
    localisation_metrics,
    pixel_auroc,
)
from anomaly_tf.reporting import plots
from anomaly_tf.runs.sections import HeatScale


def picture(text: str, values: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mask and map of one image from letters: capital letters are defect pixels."""
    rows = [list(line) for line in text.split()]
    letters = np.array(rows)[np.newaxis]
    return np.char.isupper(letters), np.vectorize(values.get, otypes=[np.float32])(letters)


def test_a_perfect_map_gives_1():
    masks, maps = picture("AA.. A... .... ...B", {"A": 0.4, "B": 0.2, ".": 0.1})
    assert localisation_metrics(masks, maps) == {"pixel_auroc": 1, "aupro": 1, "n_masks": 1}


def test_the_worst_map_gives_0():
    masks, maps = picture("AA.. A... .... ...B", {"A": 0, "B": -1, ".": 1})
    assert localisation_metrics(masks, maps) == {"pixel_auroc": 0, "aupro": 0, "n_masks": 1}


def test_a_constant_map_gives_chance():
    masks, maps = picture("AA.. A... .... ...B", {"A": 3, "B": 3, ".": 3})
    assert pixel_auroc(masks, maps) == pytest.approx(0.5)
    # The curve is the diagonal: 0.3 * 0.3 / 2 lies below it up to 0.3, and of that the 0.3rd.
    assert area_under_per_region_overlap(masks, maps) == pytest.approx(0.15)
    assert area_under_per_region_overlap(masks, maps, limit=1) == pytest.approx(0.5)


def test_a_missed_small_defect_weighs_as_much_as_a_large_one_that_was_found():
    # 6 pixels are found before any of the 9 normal ones, 1 pixel after all of them.
    masks, maps = picture("AAA. AAA. .... ...B", {"A": 1, "B": 0, ".": 0.5})
    assert pixel_auroc(masks, maps) == pytest.approx(6 / 7)
    assert area_under_per_region_overlap(masks, maps) == pytest.approx(1 / 2)
    missed_half = maps.copy()
    missed_half[0, 1, :3] = 0  # now A is found by half, and B not at all
    assert area_under_per_region_overlap(masks, missed_half) == pytest.approx(1 / 4)


def test_the_curve_is_cut_at_the_limit_within_a_step():
    # Of 10 normal pixels 1 lies above the defect and 4 beside it: the curve runs from (0.1, 0) to
    # (0.5, 1), so at 0.3 it is at 0.5, and a triangle of 0.2 * 0.5 / 2 = 0.05 lies below it.
    masks, maps = picture("abbbbDccccc", {"a": 9, "b": 5, "D": 5, "c": 1})
    assert area_under_per_region_overlap(masks, maps) == pytest.approx(0.05 / 0.3)
    assert area_under_per_region_overlap(masks, maps, limit=0.1) == 0
    # Above 0.5 all is found: 0.4 / 2 + 0.5.
    assert pixel_auroc(masks, maps) == pytest.approx(0.7)


def test_pixels_that_touch_by_a_corner_are_one_region():
    # Two regions, one found and one missed; without corners it were two of three.
    masks, maps = picture("A... .A.. .... ...B", {"A": 1, "B": 0, ".": 0.5})
    assert area_under_per_region_overlap(masks, maps) == pytest.approx(1 / 2)


def test_normal_pixels_of_images_without_a_defect_count():
    masks, maps = picture("A.", {"A": 1, ".": 0})
    normal = np.array([[[2, 2]], [[0, 2]]], np.float32)
    masks = np.concatenate([masks, np.zeros((2, 1, 2), bool)])
    maps = np.concatenate([maps, normal])
    # Three of five normal pixels lie above the defect.
    assert localisation_metrics(masks, maps) == pytest.approx(
        {"pixel_auroc": 0.4, "aupro": 0, "n_masks": 1}
    )


def slow_area_under_per_region_overlap(masks, maps, limit) -> float:
    """The definition, threshold by threshold."""
    regions = []
    for number, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(number, labels == region) for region in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        marked = maps >= threshold
        rates.append(marked[~masks].mean())
        overlaps.append(np.mean([marked[number][region].mean() for number, region in regions]))
    inside = [rate for rate in rates if rate < limit]
    heights = [*overlaps[: len(inside)], np.interp(limit, rates, overlaps)]
    return np.trapezoid(heights, [*inside, limit]) / limit


@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_the_area_is_that_of_the_definition(levels, limit):
    random = np.random.default_rng(levels)
    masks = random.random((4, 12, 10)) < 0.15
    masks[2] = False
    maps = (random.integers(0, levels, masks.shape) + 0.3 * levels * masks).astype(np.float32)
    expected = slow_area_under_per_region_overlap(masks, maps, limit)
    assert 0.1 < expected < 0.9
    assert area_under_per_region_overlap(masks, maps, limit) == pytest.approx(expected, abs=1e-12)
    auroc = roc_auc_score(masks.ravel(), maps.ravel())
    assert pixel_auroc(masks, maps) == pytest.approx(auroc, abs=1e-12)
    assert localisation_metrics(masks, maps)["n_masks"] == 3


SCALE = HeatScale(0.0, 2.0, 0.9, 0.999, "absolute error")
MASKS = np.zeros((2, 4, 4), bool)
MASKS[0, 0, 0] = True
MAPS = np.ones((2, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("masks", "maps", "words"),
    [
        (MASKS.astype(np.uint8), MAPS, r"masks must be bool .* got uint8 \(2, 4, 4\)"),
        (MASKS, MAPS.astype(np.float64), r"maps float32 .* and float64 \(2, 4, 4\)"),
        (MASKS[0], MAPS[0], r"\(N, H, W\).*got bool \(4, 4\)"),
        (MASKS, MAPS[:, :3], r"one shape; got \(2, 4, 4\), \(2, 3, 4\)"),
        (MASKS[1:], MAPS[1:], "got 0 and 16"),
        (~MASKS[1:], MAPS[1:], "got 16 and 0"),
        (MASKS[:0], MAPS[:0], "got 0 and 0"),
        (MASKS, np.where(MASKS, np.float32(np.nan), MAPS), "finite; got 1 values"),
    ],
)
@pytest.mark.parametrize("metric", [pixel_auroc, area_under_per_region_overlap])
def test_inputs_that_cannot_be_measured_are_refused(metric, masks, maps, words):
    with pytest.raises(ValueError, match=words):
        metric(masks, maps)


@pytest.mark.parametrize("limit", [0, -0.1, 1.1, float("nan")])
def test_a_limit_that_is_no_rate_is_refused(limit):
    with pytest.raises(ValueError, match="limit must be above 0 and at most 1"):
        area_under_per_region_overlap(MASKS, MAPS, limit)


@pytest.mark.parametrize("metric", [pixel_auroc, area_under_per_region_overlap])
def test_measuring_changes_neither_maps_nor_masks(metric):
    maps = np.random.default_rng(0).random(MASKS.shape, np.float32)
    before = maps.copy(), MASKS.copy()
    metric(MASKS, maps)
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(MASKS, before[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_originals_maps_and_the_edge_of_each_defect(channels, tmp_path):
    images = np.full((2, 4, 4, channels), 128, np.uint8)
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 1, 1] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.localisation("defects", images, maps, MASKS, SCALE, ["bent", "good"])
        plots.save(figure, tmp_path / "picture.png")
        explained = plots.explanations(
            "errors", images, images, maps, "error", SCALE, ["bent", "good"]
        )
        plots.save(explained, tmp_path / "explained.png")
    original, normal, marked, unmarked = figure.axes[:4]
    assert [axis.get_title() for axis in (original, normal)] == ["bent", "good"]
    assert len(original.collections) == len(normal.collections) == len(unmarked.collections) == 0
    (outline,) = marked.collections
    assert to_hex(outline.get_edgecolor()[0]) == plots.OUTLINE
    # Around the first pixel, which lies in the picture's corner.
    edge = outline.get_paths()[0].get_extents()
    np.testing.assert_allclose(edge.extents, [-0.5, -0.5, 0.5, 0.5])
    assert marked.get_xlim() == (-0.5, 3.5)
    assert marked.get_ylim() == (3.5, -0.5)
    drawn = np.asarray(marked.images[0].get_array())
    red, green, blue = drawn[1, 1, :3]
    assert red > 150 > 60 > max(green, blue)
    assert (drawn[3, 3, :3] == 128).all()
    pictures = [figure.axes[0].images[0], figure.axes[1].images[0]]
    for axis, name in zip(explained.axes, ("original", "reconstruction", "error"), strict=False):
        assert axis.get_ylabel() == name
        assert len(axis.images) == 2
        pictures += axis.images if name != "error" else []
    for picture in pictures:
        shown = np.asarray(picture.get_array())
        assert shown.shape == ((4, 4) if channels == 1 else (4, 4, 3))
    assert [label.get_text() for label in explained.axes[0].get_xticklabels()] == ["bent", "good"]
    np.testing.assert_array_equal(explained.axes[2].images[0].get_array(), maps[0])
    assert explained.axes[2].images[1].get_clim() == (0, 2)


def test_a_plot_without_images_has_a_note():
    none = np.zeros((0, 4, 4, 1), np.uint8)
    figure = plots.localisation("defects", none, MAPS[:0], MASKS[:0], SCALE, [])
    assert figure.get_suptitle() == "defects: none"
