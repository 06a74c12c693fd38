"""Formats of image files: those that are read, and those that are recognised only.

Needs the standard library only.
"""

from __future__ import annotations

import io

FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".jfi"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# First bytes of image files in other formats than `FORMATS`, with their offset.
OTHER_STARTS = {
    "HEIC": (4, (b"ftyphe", b"ftypmif", b"ftypmsf", b"ftypmiaf")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "JPEG 2000": (0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    "JPEG XL": (0, (b"\0\0\0\x0cJXL ", b"\xff\x0a")),
    "Photoshop": (0, (b"8BPS",)),
    "OpenEXR": (0, (b"v/1\x01",)),
    "PNM": (0, (b"P4\n", b"P5\n", b"P6\n")),
    "DICOM": (128, (b"DICM",)),
}
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def what_else(file: io.BufferedReader) -> str:
    """The kind of a file in none of `FORMATS`, with the remedy."""
    file.seek(0)
    head = file.read(132)
    for name, (place, starts) in OTHER_STARTS.items():
        if head[place:].startswith(starts):
            return f"is in format {name}, which is not supported; convert it to PNG or JPEG"
    if head.startswith(TIFF_STARTS):
        return (
            "is a damaged TIFF or one of an unsupported kind, such as 16-bit or floating-point "
            "colours; convert it to 8 bits"
        )
    return f"is not an image ({', '.join(FORMATS)})"
