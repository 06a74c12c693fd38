"""Damaged inputs for fuzzing: bytes and metadata, and a count of the cases.

`make test` draws a few inputs, always the same; `make fuzz` (profile `fuzz`) draws many new ones.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES: Counter[str] = Counter()  # what each test has gone through

# No deadline: a busy machine is no defect.
settings.register_profile("few", deadline=None, derandomize=True, database=None)
settings.register_profile("fuzz", deadline=None)


def cases(few: int, many: int) -> settings:
    """How many inputs a test draws in `make test`, and in `make fuzz`."""
    return settings(
        max_examples=many if is_fuzzing() else few,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def is_fuzzing() -> bool:
    """True under `make fuzz`."""
    return settings.get_current_profile_name() == "fuzz"


def with_checksums(png: bytes) -> bytes:
    """A damaged PNG whose checksums fit, so that what is behind them is read."""
    parts, place = [png[:8]], 8
    while place + 12 <= len(png):
        length = struct.unpack(">I", png[place : place + 4])[0]
        end = min(place + 8 + length, len(png) - 4)
        check = struct.pack(">I", zlib.crc32(png[place + 4 : end]))
        parts.append(png[place:end] + check)
        place = end + 4
    return b"".join([*parts, png[place:]])


class FileContent(bytes):
    """The content of a file.

    Hypothesis holds on to thousands of drawn values if they are plain `bytes`, and a model has
    megabytes.
    """


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes]) -> FileContent:
    """One of the contents after one to four damages: to bits, numbers, order or length."""
    content = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(content), draw(st.sampled_from((64, 1000, 2**30))))))
        head, tail = content[:place], content[place:]
        kind = draw(st.sampled_from(("bit", "number", "insert", "remove", "cut", "splice")))
        if kind == "bit" and tail:
            content = head + bytes([tail[0] ^ 1 << draw(st.integers(0, 7))]) + tail[1:]
        elif kind == "number":
            extreme = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFFFF, 2**31 - 1, 2**32 - 1)))
            order = draw(st.sampled_from("<>"))
            content = head + struct.pack(f"{order}I", extreme) + tail[4:]
        elif kind == "insert":
            content = head + draw(st.binary(min_size=1, max_size=20)) + tail
        elif kind == "remove":
            content = head + tail[draw(st.integers(1, 100)) :]
        elif kind == "cut":
            content = head
        elif kind == "splice":
            other = draw(st.sampled_from(contents))
            content = head + other[min(place, len(other)) :]
    return FileContent(content)


# Anything that JSON can say, and some that Python's reader takes beside.
NUMBERS = st.one_of(
    st.integers(-2, 100),
    st.integers(),
    st.floats(),
    st.sampled_from((10**400, 1e39, -1e39, 0.0, -0.0, 5e-324, 2**31, 2**63)),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, info: dict[str, Any], values: st.SearchStrategy = VALUES) -> bytes:
    """JSON with one to three values replaced, removed, doubled or given to another key."""
    info = json.loads(json.dumps(info))
    for _ in range(draw(st.integers(1, 3))):
        section: Any = info
        while True:
            keys = [*section] if isinstance(section, dict) else [*range(len(section))]
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(section[key], (dict, list)) and draw(st.booleans()):
                section = section[key]
                continue
            kind = draw(st.sampled_from(("replace", "remove", "swap")))
            if kind == "replace":
                section[key] = draw(values)
            elif kind == "remove":
                del section[key]
            else:
                other = draw(st.sampled_from(keys))
                section[key], section[other] = section[other], section[key]
            break
    return json.dumps(info).encode()
