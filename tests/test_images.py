"""Image files: all supported kinds, and all kinds of damage."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from anomaly_tf.data.bit_depth import bits_of
from anomaly_tf.data.formats import SUFFIXES
from anomaly_tf.data.images import (
    Reading,
    UnreadableImage,
    largest_value,
    open_image,
    read_header,
    read_image,
    read_levels,
)


@pytest.fixture(scope="module")
def shoe(small_arrays) -> np.ndarray:
    """A real picture, uint8 (28, 28)."""
    return small_arrays[2][0][..., 0]


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_formats_come_back_as_they_were(suffix, mode, shoe, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(Image.fromarray(shoe).convert(mode), tmp_path / f"shoe.{suffix}", **options)
    np.testing.assert_array_equal(read_image(path, (28, 28, 1))[..., 0], shoe)
    colour = read_image(path, (28, 28, 3))
    np.testing.assert_array_equal(colour, np.repeat(shoe[..., None], 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
def test_colours_come_back_as_red_green_and_blue(suffix, tmp_path):
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(suffix, {})
    picture = Image.new("RGB", (8, 10), (200, 100, 20))
    path = saved(picture, tmp_path / f"orange.{suffix}", **options)
    colour = read_image(path, (10, 8, 3))
    assert np.abs(colour.astype(int) - (200, 100, 20)).max() <= (suffix == "jpg")
    # Grey by the weights of ITU-R 601: 0.299, 0.587 and 0.114 of red, green and blue.
    grey = read_image(path, (10, 8, 1))
    assert np.abs(grey.astype(int) - 120.8).max() < 1.5
    resized = read_image(path, (3, 5, 3))
    assert np.abs(resized.astype(int) - (200, 100, 20)).max() <= (suffix == "jpg")


def test_enlarged_images_are_interpolated_linearly(tmp_path):
    path = saved(Image.fromarray(np.array([[0, 200]], np.uint8)), tmp_path / "edge.png")
    # Centres of the new pixels lie at -1/4, 1/4, 3/4 and 5/4 between the two old ones.
    assert read_image(path, (1, 4, 1))[0, :, 0].tolist() == [0, 50, 150, 200]


def test_shrunken_images_are_averaged_with_a_triangle(tmp_path):
    line = np.zeros((1, 8), np.uint8)
    line[0, 4] = 160
    path = saved(Image.fromarray(line), tmp_path / "line.png")
    # Each new pixel covers two old ones and reaches over four: weights 1, 3, 3, 1 of 8.
    assert read_image(path, (1, 4, 1))[0, :, 0].tolist() == [0, 20, 60, 0]


def test_between_the_levels_sixteen_bits_are_cut(tmp_path):
    deep = np.array([[0, 256, 257, 32767, 32768, 65278, 65279, 65535]], np.uint16)
    path = saved(Image.fromarray(deep), tmp_path / "deep.png")
    assert read_image(path, (1, 8, 1))[0, :, 0].tolist() == [0, 0, 1, 127, 127, 254, 254, 255]


def deep(path: Path, bits: int, dtype: type = np.uint16) -> Path:
    """A 16-bit picture whose white, in its last pixel, is that of so many bits."""
    values = np.array([[0, 2**bits // 2, 2**bits - 1]], dtype)
    return saved(Image.fromarray(values), path)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint16), ("tif", np.int32)])
def test_white_is_that_of_the_bit_depth(bits, suffix, dtype, tmp_path):
    path = deep(tmp_path / f"deep.{suffix}", bits, dtype)
    assert read_image(path, (1, 3, 1), Reading(bits))[0, :, 0].tolist() in (
        [0, 127, 255],
        [0, 128, 255],
    )
    assert read_header(path).is_deep
    assert bits_of(largest_value(path)) == bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_file_with_an_unknown_white_level_is_refused(bits, tmp_path):
    path = deep(tmp_path / "deep.png", bits)
    with pytest.raises(UnreadableImage, match=f"16 bits and no value .*--bit-depth {bits} or 16"):
        open_image(path)
    # Taken for filled ones, the values are dark, as they were before.
    assert open_image(path, Reading(16)).getextrema() == (0, (2**bits - 1) // 257)
    black = saved(Image.fromarray(np.zeros((3, 3), np.uint16)), tmp_path / "black.png")
    assert open_image(black).getextrema() == (0, 0)


def test_values_that_no_bit_depth_holds_are_refused(tmp_path):
    with pytest.raises(UnreadableImage, match=r"values up to 4095, more than the 10 bits"):
        open_image(deep(tmp_path / "a.png", 12), Reading(10))
    for values in ([-5, 7], [0, 70_000]):
        path = saved(Image.fromarray(np.array([values], np.int32)), tmp_path / "b.tif")
        with pytest.raises(UnreadableImage, match=rf"from {values[0]} to {values[1]}, outside"):
            open_image(path, Reading(16))


def deep_colours(path: Path, largest: int) -> Path:
    """A PNG with 16 bits for each colour, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    pixels = np.array([[0, largest, largest // 2]] * 4, ">u2").tobytes()
    head = struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def test_colours_of_sixteen_bits_are_read_if_they_fill_them(tmp_path):
    path = deep_colours(tmp_path / "colours.png", 65535)
    assert read_header(path) == (4, 1, False, True)
    assert open_image(path).getpixel((0, 0)) == (0, 255, 127)
    camera = deep_colours(tmp_path / "camera.png", 4095)
    for high in (4095, 255):
        dark = deep_colours(tmp_path / "dark.png", high)
        with pytest.raises(UnreadableImage, match=f"may be {high} .*--bit-depth 16 for the second"):
            open_image(dark)
    with pytest.raises(UnreadableImage, match="12-bit colours stored in 16 bits, and only"):
        open_image(camera, Reading(12))
    assert open_image(camera, Reading(16)).getpixel((0, 0)) == (0, 15, 7)
    assert not read_header(saved(Image.new("RGB", (4, 4)), tmp_path / "plain.png")).is_deep


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_has_the_size_of_the_upright_image(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    wide = orientation < 5
    path = saved(Image.new("RGB", (12, 10)), tmp_path / "photo.jpg", exif=exif)
    assert read_header(path)[:3] == ((12, 10, False) if wide else (10, 12, False))
    assert open_image(path).size == ((12, 10) if wide else (10, 12))


def test_jpeg_comes_back_nearly(shoe, tmp_path):
    path = saved(Image.fromarray(shoe), tmp_path / "shoe.JPG", quality=95)
    difference = np.abs(read_image(path, (28, 28, 1))[..., 0].astype(int) - shoe)
    assert difference.mean() < 3


@pytest.mark.parametrize(
    ("mode", "suffix"), [("P", "png"), ("RGBA", "png"), ("LA", "png"), ("CMYK", "tiff")]
)
def test_other_modes_look_the_same(mode, suffix, shoe, tmp_path):
    colour = Image.fromarray(shoe).convert("RGB")
    image = colour.quantize(256) if mode == "P" else colour.convert(mode)
    path = saved(image, tmp_path / f"shoe.{suffix}")
    difference = np.abs(read_image(path, (28, 28, 1))[..., 0].astype(int) - shoe)
    assert difference.max() <= 1


def test_sixteen_bits_become_eight(shoe, tmp_path):
    deep = shoe.astype(np.uint16) * 257
    for suffix in ("png", "tiff"):
        path = saved(Image.fromarray(deep), tmp_path / f"shoe.{suffix}")
        np.testing.assert_array_equal(read_image(path, (28, 28, 1))[..., 0], shoe)


def test_transparent_pixels_lie_on_white(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (200, 100, 0, 255)
    path = saved(Image.fromarray(clear), tmp_path / "clear.png")
    colour = read_image(path, (4, 4, 3))
    assert (colour[:2] == (200, 100, 0)).all()
    assert (colour[2:] == 255).all()


def test_images_are_rotated_by_their_exif_tag(shoe, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned = Image.fromarray(shoe).rotate(90)
    path = saved(turned, tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(path, (28, 28, 1))[..., 0], shoe)


def test_the_first_frame_of_an_animation_is_used(shoe, tmp_path):
    frames = [Image.fromarray(shoe), Image.fromarray(255 - shoe)]
    for suffix, options in (("webp", {"lossless": True}), ("png", {}), ("gif", {})):
        path = tmp_path / f"moving.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read_image(path, (28, 28, 1))[..., 0], shoe)


def test_pages_of_a_tiff_are_no_copies_of_the_first(shoe, tmp_path):
    first, second = Image.fromarray(shoe), Image.fromarray(255 - shoe)
    path = tmp_path / "pages.tiff"
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(UnreadableImage, match="has several pages; save each"):
        open_image(path)
    second = second.resize((14, 14))
    second.encoderinfo = {"tiffinfo": {254: 1}}  # as cameras add a smaller copy
    first.save(path, save_all=True, append_images=[second], exif=turned())
    assert open_image(path).size == (28, 28)
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.rot90(shoe, -1))


def test_sixteen_bits_with_zero_as_white_are_refused(tmp_path):
    for name, mode in (("deep.tif", "I;16"), ("plain.tif", "L")):
        image = Image.new(mode, (4, 4), 0)
        image.putpixel((0, 0), 255)
        image.save(tmp_path / name, tiffinfo={262: 0})
    with pytest.raises(UnreadableImage, match="with 0 as white"):
        open_image(tmp_path / "deep.tif")
    assert open_image(tmp_path / "plain.tif").getextrema() == (0, 255)


def test_a_pipe_is_no_empty_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImage, match="is a pipe or a device"):
        open_image(tmp_path / "pipe.png")


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_other_sizes_are_resized_and_averaged(tmp_path):
    checkers = np.indices((64, 48)).sum(axis=0) % 2 * 255
    path = saved(Image.fromarray(checkers.astype(np.uint8)), tmp_path / "checkers.png")
    small = read_image(path, (8, 6, 1))
    assert small.shape == (8, 6, 1)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 2  # grey, and no moiré
    assert open_image(path).size == (48, 64)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("zero.png", b"", "is empty"),
        ("text.png", b"not a picture at all", "is not an image"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        ("bomb.png", png_header(100_000, 100_000), "claims too many pixels"),
        (
            "large.png",
            png_header(9_000, 9_000),
            "9000 x 9000.*: give --max-pixels 81000000, resize",
        ),
        ("huge.png", png_header(12_000, 12_000), "12000 x 12000.*: resize it or cut it"),
        (
            "a.heic",
            b"\0\0\0\x18ftypheic",
            "is in format HEIC, which is not supported; convert it",
        ),
        ("a.avif", b"\0\0\0\x18ftypavif", "is in format AVIF"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "is in format JPEG 2000"),
        ("a.tif", b"II*\0" + bytes(30), "is a damaged TIFF or one of an unsupported kind"),
        ("short.png", png_header(28, 28), "is damaged"),
    ],
)
def test_files_that_are_not_images(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImage, match=words) as refused:
        read_image(tmp_path / name, (28, 28, 1))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_largest_number_of_pixels_can_be_set(shoe, tmp_path):
    path = tmp_path / "shoe.png"
    Image.fromarray(shoe).save(path)
    assert read_header(path, Reading(max_pixels=784))[:2] == (28, 28)
    np.testing.assert_array_equal(read_levels(path, Reading(max_pixels=784)).values, shoe)
    for read in (read_header, read_levels, largest_value, open_image):
        with pytest.raises(UnreadableImage, match="at most 783 are read: give --max-pixels 784"):
            read(path, Reading(max_pixels=783))


def test_memory_is_checked_before_more_pixels_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(9_000, 9_000))
    assert read_header(path, Reading(max_pixels=81_000_000))[:2] == (9_000, 9_000)
    monkeypatch.setenv("ANOMALY_TF_MAX_GB", "1.2")
    with pytest.raises(UnreadableImage, match=r"large\.png would take 1\.3 GB, more than 1\.2 GB"):
        read_header(path, Reading(max_pixels=81_000_000))


def test_a_png_whose_header_is_cut_short(tmp_path):
    path = tmp_path / "short header.png"
    path.write_bytes(png_header(28, 28).replace(b"\0\0\0\x0dIHDR", b"\0\0\0\x0cIHDR"))
    with pytest.raises(UnreadableImage, match="is damaged"):
        read_image(path, (28, 28, 1))


@pytest.mark.parametrize("tag", [b"\x00\x01", b"\x11\x01"], ids=["width", "offset"])
def test_a_tiff_whose_whole_numbers_are_fractions(tag, shoe, tmp_path):
    path = saved(Image.fromarray(shoe), tmp_path / "fractions.tiff")
    for kind in (b"\x03\x00", b"\x04\x00"):  # of 16 and of 32 bits
        path.write_bytes(path.read_bytes().replace(tag + kind, tag + b"\x05\x00"))
    with pytest.raises(UnreadableImage, match="is damaged"):
        read_image(path, (28, 28, 1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff"])
def test_a_truncated_file(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"noise.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImage, match=path.name):
        read_image(path, (28, 28, 1))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "none.png", (28, 28, 1))
    with pytest.raises(UnreadableImage, match="is a folder"):
        read_image(tmp_path, (28, 28, 1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(shoe, tmp_path):
    path = saved(Image.fromarray(shoe), tmp_path / "closed.png")
    path.chmod(0)
    with pytest.raises(UnreadableImage, match="Permission denied"):
        read_image(path, (28, 28, 1))


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path):
    for name, size in (("bomb.png", 100_000), ("small_bomb.png", 12_000)):
        (tmp_path / name).write_bytes(png_header(size, size))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from anomaly_tf.data.images import UnreadableImage, read_image\n"
        "for name in sys.argv[1:]:\n"
        "    try: read_image(Path(name), (28, 28, 1))\n"
        "    except UnreadableImage: print('refused')\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(int(status['VmHWM'].split()[0]) // 1024)\n"
    )
    names = [str(tmp_path / name) for name in ("bomb.png", "small_bomb.png")]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *refusals, megabytes = done.stdout.split()
    assert refusals == ["refused", "refused"]
    assert int(megabytes) < 300
    assert done.stderr == ""


def test_a_chunk_that_claims_two_gigabytes_gets_no_room(shoe, tmp_path):
    path = saved(Image.fromarray(shoe), tmp_path / "long.png")
    content = path.read_bytes()
    chunk = content.index(b"IDAT")
    path.write_bytes(content[: chunk - 4] + b"\x7f\xff\xff\xff" + content[chunk:])
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from anomaly_tf.data.images import read_image\n"
        "print(read_image(Path(sys.argv[1]), (28, 28, 1)).sum())\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(int(status['VmPeak'].split()[0]) // 1024)\n"
    )
    arguments = [sys.executable, "-W", "error", "-c", code, str(path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    total, megabytes = map(int, done.stdout.split())
    assert total == shoe.sum()  # the pixels themselves are whole
    assert megabytes < 2000


def test_floating_point_pixels_are_named_with_the_remedy(tmp_path):
    path = saved(Image.new("F", (8, 8), 0.5), tmp_path / "float.tif")
    for read in (read_header, open_image):
        with pytest.raises(UnreadableImage, match=r"floating-point values.*convert it to integers"):
            read(path)


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "jif"])
def test_other_endings_of_jpeg(suffix, shoe, tmp_path):
    path = saved(Image.fromarray(shoe), tmp_path / f"shoe.{suffix}", format="JPEG", quality=95)
    assert path.suffix in SUFFIXES
    assert np.abs(read_image(path, (28, 28, 1))[..., 0].astype(int) - shoe).mean() < 3
