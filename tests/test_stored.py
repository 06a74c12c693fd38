"""Images that stay on disk: all are read in order, and a sample depends on its seed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anomaly_tf.data.stored import PART, Records, StoredImages, apply, join, parts, sample, subset

COUNT = 2 * PART + 3
# Each image holds its own number.
IMAGES = np.stack(np.divmod(np.arange(COUNT), 256), axis=-1).astype(np.uint8).reshape(-1, 1, 2, 1)


def stored() -> StoredImages:
    return StoredImages(lambda numbers: IMAGES[numbers], np.arange(COUNT), (1, 2, 1))


def numbers_of(images: np.ndarray) -> np.ndarray:
    return images[:, 0, :, 0] @ np.array([256, 1])


@pytest.mark.parametrize("images", [IMAGES, stored()], ids=["array", "stored"])
def test_every_image_is_passed_on_once_and_in_order(images):
    np.testing.assert_array_equal(apply(numbers_of, images), np.arange(COUNT))
    assert [len(part) for part in parts(images)] == [PART, PART, 3]
    np.testing.assert_array_equal(numbers_of(np.concatenate(list(parts(images)))), np.arange(COUNT))


def test_stored_images_are_read_in_parts():
    sizes = []
    apply(lambda part: sizes.append(len(part)) or numbers_of(part), stored())
    assert sizes == [PART, PART, 3]


@pytest.mark.parametrize("images", [IMAGES, stored()], ids=["array", "stored"])
def test_a_sample_follows_its_seed_and_keeps_the_order(images):
    first, again, other = (numbers_of(sample(images, 50, seed)[:]) for seed in (1, 1, 2))
    assert len(set(first)) == 50
    assert (np.diff(first) > 0).all()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(numbers_of(sample(images, COUNT, 0)[:]), np.arange(COUNT))


@pytest.mark.parametrize("images", [IMAGES, stored()], ids=["array", "stored"])
def test_subsets_are_joined_one_behind_the_other(images):
    first, second = subset(images, np.array([9, 2])), subset(images, slice(700, 703))
    assert numbers_of(join(first, second)[:]).tolist() == [9, 2, 700, 701, 702]
    few = subset(first, np.array([False, True]))
    assert numbers_of(few[:]).tolist() == [2]


def test_threads_read_from_one_file_without_moving_each_other(tmp_path):
    file = tmp_path / "images.u8"
    file.write_bytes(IMAGES.tobytes())
    records = Records(file, (1, 2, 1))
    shares = np.array_split(np.random.default_rng(0).permutation(COUNT), 4)
    with ThreadPoolExecutor(len(shares)) as pool:
        for share, read in zip(shares, pool.map(records, shares), strict=True):
            np.testing.assert_array_equal(numbers_of(read), share)
    assert records._file.tell() == 0  # the place that threads would share
