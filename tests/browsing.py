"""Fixtures of tests in a real browser: Chromium and Firefox where they are installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anomaly_tf.deploy.npm_packages import (
    NpmPackage,
    package_cache,
    package_files,
)
from anomaly_tf.errors import UserError
from measurements.browsers import BROWSERS, Browser, Chromium, executable_of, start_browser

# Rules of accessibility; used by the tests only (Mozilla Public License 2.0).
AXE = NpmPackage(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    "MPL-2.0",
)
VIOLATIONS = """axe.run(document).then(({ violations }) => violations.map(
    ({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ target }) => target).join("; ")}`))"""
# What the user has fetched already; conftest.py gives the tests an empty cache of their own.
USER_CACHE = Path(os.environ.get("USER_CACHE_HOME", os.devnull), "anomaly_tf", "npm")


def _kept_or_fetched(package: NpmPackage, *names: str) -> dict[str, bytes]:
    """Files of a package, from the user's cache if they are there."""
    kept = USER_CACHE / package.archive
    if kept.is_file() and not (package_cache() / package.archive).exists():
        package_cache().mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, package_cache())
    return package_files(package, names)


@pytest.fixture(scope="session")
def litert_js() -> None:
    """LiteRT.js in the cache of the tests."""
    from anomaly_tf.deploy.npm_packages import LITERT_JS, LITERT_WASM_UTILS

    try:
        for package in (LITERT_JS, LITERT_WASM_UTILS):
            _kept_or_fetched(package)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    try:
        return _kept_or_fetched(AXE, "axe.min.js")["axe.min.js"].decode()
    except UserError as error:
        pytest.skip(str(error))


def require_browser(name: str) -> None:
    """Skips a test whose browser is not installed."""
    if executable_of(name) is None:
        pytest.skip(f"{BROWSERS[name][0]} is not installed")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """Chromium, for all tests of a process."""
    require_browser("chromium")
    with start_browser("chromium") as browser:
        assert isinstance(browser, Chromium)
        yield browser


@pytest.fixture(scope="session")
def firefox() -> Iterator[Browser]:
    """Firefox, for all tests of a process."""
    require_browser("firefox")
    with start_browser("firefox") as browser:
        yield browser


@pytest.fixture(scope="session")
def check_accessibility(axe: str) -> Callable[[Chromium], None]:
    """Asserts that axe finds nothing wrong in the page that a browser shows."""

    def check(browser: Chromium) -> None:
        # By the protocol and not by a script of the page, whose policy would forbid it.
        browser.call("Runtime.evaluate", expression=axe)
        assert browser.evaluate(VIOLATIONS) == []

    return check


@pytest.fixture(scope="session")
def assert_accessible(chromium, check_accessibility) -> Callable[[Path], None]:
    """Opens an HTML file, light and dark, wide and as on a phone: nothing is wrong by the rules of
    axe, nothing overflows to the right, and no request leaves the page."""

    def check(path: Path) -> None:
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            show_as(chromium, width, scheme)
            chromium.open(path.absolute().as_uri())
            check_accessibility(chromium)
            assert_fits(chromium)
            assert chromium.requests == []

    return check


def show_as(chromium: Chromium, width: int, scheme: str) -> None:
    """Sets the width of the window in pixels and the colours that its user prefers."""
    chromium.call(
        "Emulation.setDeviceMetricsOverride",
        # As a narrow window: a phone would widen its viewport to what does not fit.
        **{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    preferred = {"name": "prefers-color-scheme", "value": scheme}
    chromium.call("Emulation.setEmulatedMedia", features=[preferred])


def assert_fits(browser: Browser) -> None:
    """Asserts that the page is not wider than its window."""
    wide, window = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window
