"""Images, classes, files and labels stay aligned, in memory and on disk."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.stored import StoredImages

IMAGES = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
CLASSES = np.array([2, 0, 1, 0, 2], np.int16)
FILES = ("a.png", "b.png", "c.png", "d.png", "e.png")


def stored() -> StoredImages:
    return StoredImages(lambda numbers: IMAGES[numbers], np.arange(5), (1, 1, 1))


def numbers_of(part: ImageSet) -> list[int]:
    """The original number of each image, which its class and its file must have, too."""
    numbers = part.images[:].ravel().tolist()
    assert part.classes.tolist() == CLASSES[numbers].tolist()
    assert part.files == tuple(FILES[number] for number in numbers)
    assert len(part) == len(numbers)
    return numbers


@pytest.mark.parametrize("images", [IMAGES, stored()], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (slice(1, 4), [1, 2, 3]),
        (slice(0), []),
        (np.array([4, 0, 0]), [4, 0, 0]),
        (np.array([True, False, False, True, False]), [0, 3]),
    ],
)
def test_selected_images_keep_their_class_and_file(images, chosen, expected):
    part = ImageSet(images, CLASSES, FILES).take(chosen)
    assert numbers_of(part) == expected
    assert isinstance(part.images, type(images))


@pytest.mark.parametrize("images", [IMAGES, stored()], ids=["memory", "disk"])
def test_a_set_that_was_cut_can_be_joined_again(images):
    kept, cut = ImageSet(images, CLASSES, FILES).cut(CLASSES == 0)
    assert (numbers_of(kept), numbers_of(cut)) == ([0, 2, 4], [1, 3])
    assert numbers_of(kept.joined(cut)) == [0, 2, 4, 1, 3]


def test_images_that_are_not_files_have_none_after_taking():
    assert ImageSet(IMAGES, CLASSES).take(slice(2)).files == ()


def test_labels_come_from_the_classes_and_follow_their_images():
    part = LabelledImages.of(ImageSet(IMAGES, CLASSES, FILES), normal=(0, 1))
    assert part.labels.dtype == np.int8
    assert part.labels.tolist() == [1, 0, 0, 0, 1]
    assert part.normal[:].ravel().tolist() == [1, 2, 3]
    assert part.anomalies[:].ravel().tolist() == [0, 4]
    few = part.take(np.array([4, 1]))
    assert numbers_of(few) == [4, 1]
    assert few.labels.tolist() == [1, 0]
