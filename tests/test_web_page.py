"""The page of a detector in Chromium and Firefox."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browsing import assert_fits, require_browser, show_as
from conftest import ROOT, normal_set, weighing_detector
from PIL import Image

from anomaly_tf.cli import export, predict
from anomaly_tf.deploy import exporters, web_page
from anomaly_tf.deploy.known_score import known_score
from anomaly_tf.deploy.web_page import write_page
from anomaly_tf.errors import UserError
from anomaly_tf.runs.outputs import export_outputs, site_outputs
from anomaly_tf.runs.region import Region
from anomaly_tf.runs.sections import RoiFacts, Tiling
from measurements.browsers import Browser, BrowserError, served
from measurements.web import (
    READY,
    SCORED,
    compare,
    open_page,
    page_detector,
    score_pictures,
    write_pictures,
)

# Of 28 sizes, formats and modes; `make bench-web` compares 500.
PICTURES = 28
MESSAGE = "document.getElementById('message').textContent"
FAILURES = """Object.fromEntries([...document.querySelectorAll("#failures li")].map(
    (item) => [item.firstChild.textContent, item.lastChild.textContent.trim()]))"""


@pytest.fixture(params=["chromium", "firefox"])
def browser(request) -> Browser:
    require_browser(request.param)
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def site(trained_run, litert_js, made_once) -> Path:
    """A folder for a web server, and in it the page as one file."""

    def make(folder: Path) -> None:
        options = ["--run-dir", str(trained_run), "--output", str(folder)]
        assert export.main([*options, "--format", "web", "--quantize", "int8"]) in (0, 3)

    return made_once("site", make)


@pytest.fixture(scope="module")
def page(site) -> Path:
    return site / "sota-int8.html"


@pytest.fixture(scope="module")
def pictures(small_arrays, tmp_path_factory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("mixed") / "new", small_arrays[2], PICTURES)


def answers(browser: Browser, page: Path, files: list[Path]) -> dict[str, float]:
    """Largest differences between a page and Python's LiteRT."""
    open_page(browser, page)
    rows = score_pictures(browser, files)
    assert browser.evaluate(FAILURES) == {}
    return compare(page_detector(page), files, rows)


def test_scores_ranks_and_verdicts_are_those_of_python(browser, page, pictures):
    found = answers(browser, page, pictures)
    assert found["pictures"] == PICTURES
    assert found["pictures_with_other_pixels"] == 0
    assert found["score_difference_largest"] < 1e-5
    assert found["rank_difference_largest"] == 0
    assert found["verdicts_changed"] == 0
    assert browser.requests == []


def test_the_csv_is_that_of_predict(browser, page, pictures, monkeypatch, capsys):
    names = ["=1+1.png", 'a, "b".png', "caf\u00e9.png", "zero\u200bwidth.png"]
    folder = pictures[0].parent.parent / "named"
    folder.mkdir(exist_ok=True)
    for name, picture in zip(names, pictures[::7], strict=True):
        Image.open(picture).convert("RGB").save(folder / name)
    open_page(browser, page)
    score_pictures(browser, [folder / name for name in names])
    text = browser.evaluate("anomalyPage.csv")
    detector = page_detector(page)
    scores = detector.score(np.stack([detector.read(folder / name) for name in names]))
    write = predict.write_csv()
    for place in np.argsort(-scores, kind="stable"):
        score, rank = scores[place], detector.p_values(scores)[place]
        verdict = bool(score >= detector.threshold)
        write(names[place], float(f"{score:.7g}"), verdict, float(f"{rank:.4g}"))
    assert text == capsys.readouterr().out


def test_numbers_are_written_as_python_writes_them(chromium, page):
    open_page(chromium, page)
    values = [0.0, 1.0, 10.0, 1 / 3, 0.0001, 0.00001234567, 1e-9, 123456.789, 1e15, 1e16, 2e22]
    written = chromium.evaluate(
        "import('anomaly_tf/csv.js').then(({ rounded }) => "
        f"{json.dumps(values)}.map((value) => rounded(value, 7)))"
    )
    assert written == [repr(float(f"{value:.7g}")) for value in values]


def test_every_step_of_the_slider_is_a_conformal_threshold(browser, page, pictures):
    open_page(browser, page)
    score_pictures(browser, pictures)
    detector = page_detector(page)
    size = len(detector.calibration_scores)
    steps = browser.evaluate(
        "anomalyPage.detector.calibration.steps().map((alarms) => "
        "[alarms, anomalyPage.detector.calibration.threshold(alarms)])"
    )
    assert steps[0][0] == 1
    for alarms, threshold in steps:
        detector.set_false_alarm_rate(alarms / (size + 1))
        assert threshold == detector.threshold
    shown = browser.evaluate("""(() => {
        const slider = document.getElementById("rate");
        slider.value = 0;
        slider.dispatchEvent(new Event("input"));
        const rows = anomalyPage.rows.map(({ rank, isAnomaly }) => [rank, isAnomaly]);
        return [rows, slider.getAttribute("aria-valuetext")];
    })()""")
    assert shown[0]
    assert all(is_anomaly == (rank <= 1 / (size + 1)) for rank, is_anomaly in shown[0])
    assert "normal pictures" in shown[1]
    # Its own threshold comes back.
    browser.evaluate("document.getElementById('own').click()")
    assert browser.evaluate("anomalyPage.grid.settings.threshold") == np.float32(
        page_detector(page).threshold
    )


def test_the_grid_is_sorted_and_anomalies_can_be_selected(browser, page, pictures):
    open_page(browser, page)
    score_pictures(browser, pictures)
    shown = browser.evaluate("""(() => {
        document.getElementById("only-anomalies").click();
        const names = [...document.querySelectorAll("#grid li")].map((item) => [
            ...[".name", "b"].map((part) => item.querySelector(part).textContent), !item.hidden]);
        document.getElementById("only-anomalies").click();
        return names;
    })()""")
    detector = page_detector(page)
    scores = {path.name: detector.score(detector.read(path)[None])[0] for path in pictures}
    assert [scores[name] for name, *_ in shown] == sorted(scores.values(), reverse=True)
    for name, word, is_shown in shown:
        is_anomaly = scores[name] >= detector.threshold
        assert (is_shown, word.split()[1]) == (is_anomaly, "anomaly" if is_anomaly else "normal")


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory, pictures) -> dict[str, tuple[bytes, str]]:
    """Content of files that are not scored, with a word of the reason."""
    draw = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("made")

    def saved(name: str, image: Image.Image, **options: object) -> bytes:
        image.save(folder / name, **options)
        return (folder / name).read_bytes()

    smooth = Image.fromarray(draw.integers(0, 256, (30, 40, 3), np.uint8)).resize((160, 120))
    jpeg, png = saved("a.jpg", smooth), saved("a.png", smooth)
    webp, gif, bmp = (saved(f"a.{suffix}", smooth) for suffix in ("webp", "gif", "bmp"))
    hurt = bytearray(png)
    hurt[len(hurt) // 2] ^= 1
    dark = Image.fromarray(draw.integers(0, 1024, (9, 9)).astype(np.uint16))
    return {
        "a.tiff": (saved("a.tiff", smooth), "format TIFF"),
        "a.heic": (b"\0\0\0\x18ftypheic" + bytes(50), "format HEIC"),
        "cmyk.jpg": (saved("cmyk.jpg", smooth.convert("CMYK")), "CMYK"),
        "dark.png": (saved("dark.png", dark), "white level is unknown"),
        "empty.png": (b"", "empty"),
        "text.png": (b"no picture", "not a picture"),
        "hurt.png": (bytes(hurt), "damaged"),
        "hurt.gif": (gif[: len(gif) // 2] + bytes(200) + gif[len(gif) // 2 + 200 :], "damaged"),
        "short.bmp": (bmp[:-1], "truncated"),
        "short.gif": (gif[:-200], "truncated"),
        "short.jpg": (jpeg[:-200], "truncated"),
        "short.png": (png[:-200], "truncated"),
        "short.webp": (webp[:-200], "truncated"),
    }


def test_what_cannot_be_scored_is_listed_and_the_others_are_scored(
    browser, page, unreadable, pictures, tmp_path
):
    for name, (content, _) in unreadable.items():
        (tmp_path / name).write_bytes(content)
    open_page(browser, page)
    files = [tmp_path / name for name in unreadable]
    rows = score_pictures(browser, [*files[:5], pictures[0], *files[5:]])
    assert list(rows) == [pictures[0].name]
    failures = browser.evaluate(FAILURES)
    assert set(failures) == set(unreadable)
    for name, (_, word) in unreadable.items():
        assert word in failures[name], name
    assert "13 could not be scored" in browser.evaluate(
        "document.getElementById('summary').textContent"
    )


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(browser, page, tmp_path):
    Image.new("1", (9000, 6000)).save(tmp_path / "large.png")
    open_page(browser, page)
    assert score_pictures(browser, [tmp_path / "large.png"]) == {}
    assert "too many pixels (9000 x 6000)" in browser.evaluate(FAILURES)["large.png"]


def changed_page(page: Path, part: str, change: Callable[[bytes], bytes], to: Path) -> Path:
    """A copy of a page with another content of one of its parts."""
    text = page.read_text("utf-8")
    found = re.search(rf'(id="part-{re.escape(part)}">)([^<]*)', text)
    assert found
    content = change(gzip.decompress(base64.b64decode(found[2])))
    packed = base64.b64encode(gzip.compress(content)).decode()
    to.write_text(text[: found.start(2)] + packed + text[found.end(2) :], "utf-8")
    return to


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def with_known(**values: object) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        info = json.loads(content)
        info["known"] |= values
        return json.dumps(info).encode()

    return change


@pytest.mark.parametrize(
    ("part", "change", "word"),
    [
        ("model.tflite", flipped, "another SHA-256 digest"),
        ("detector.json", with_known(score=-1.0), "a known picture gets the score"),
        ("detector.json", with_known(pixels_sha256="0" * 64), "changes the pixels"),
    ],
)
def test_a_page_that_would_score_wrongly_stays_closed(browser, page, tmp_path, part, change, word):
    browser.open(changed_page(page, part, change, tmp_path / "changed.html").as_uri())
    assert browser.evaluate(READY) == "failed"
    assert word in browser.evaluate(MESSAGE)
    assert browser.evaluate("document.getElementById('inputs').disabled")
    assert browser.evaluate("typeof anomalyPage") == "undefined"


def test_without_webassembly_the_page_says_so(chromium, page):
    script = chromium.call(
        "Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly"
    )
    try:
        chromium.open(page.as_uri())
        assert chromium.evaluate(READY) == "failed"
        assert "no WebAssembly" in chromium.evaluate(MESSAGE)
    finally:
        chromium.call("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_the_camera_gives_verdicts_and_a_refused_one_is_reported(chromium, page):
    start = """(async () => {
        document.getElementById("camera").click();
        const verdict = document.querySelector("#live output");
        while (!verdict.textContent && !document.getElementById("message").textContent) {
            await new Promise(requestAnimationFrame);
        }
        return [verdict.textContent, document.getElementById("message").textContent];
    })()"""

    def allow(setting: str) -> None:
        chromium.call("Browser.setPermission", permission={"name": "camera"}, setting=setting)

    allow("denied")
    open_page(chromium, page)
    verdict, message = chromium.evaluate(start)
    assert not verdict
    assert message.startswith("No camera: ")
    allow("granted")
    open_page(chromium, page)
    verdict, message = chromium.evaluate(start)
    assert not message
    assert verdict.split()[1] in ("normal", "anomaly")
    chromium.evaluate("document.querySelector('#live button').click()")
    chromium.evaluate(SCORED.format(1))
    chromium.evaluate("document.getElementById('camera').click()")
    assert chromium.evaluate("anomalyPage.rows.map(({ name }) => name)") == ["camera-1.png"]


def test_the_page_is_accessible(
    chromium, page, pictures, unreadable, tmp_path, check_accessibility
):
    (tmp_path / "a.tiff").write_bytes(unreadable["a.tiff"][0])
    for width, scheme in ((1280, "light"), (390, "dark")):
        show_as(chromium, width, scheme)
        open_page(chromium, page)
        check_accessibility(chromium)
        score_pictures(chromium, [*pictures[:4], tmp_path / "a.tiff"])
        chromium.evaluate("document.getElementById('heat').click()")
        chromium.evaluate("document.querySelector('footer summary').click()")
        check_accessibility(chromium)
        assert_fits(chromium)
        figures = chromium.evaluate("""(async () => {
            document.querySelector("#grid button").click();
            const captions = () => [...document.querySelectorAll("#large figcaption")];
            while (!captions().length) await new Promise(requestAnimationFrame);
            return captions().map(({ textContent }) => textContent);
        })()""")
        assert figures == ["Picture", "Heat map", "Reconstruction"]
        check_accessibility(chromium)
        assert_fits(chromium)
    assert chromium.requests == []


def test_the_page_works_by_keyboard(chromium, page, pictures):
    open_page(chromium, page)
    score_pictures(chromium, pictures[:3])

    def press(key: str) -> str:
        for kind in ("keyDown", "keyUp"):
            code = {"Enter": 13, "Escape": 27, "ArrowRight": 39}[key]
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            chromium.call(
                "Input.dispatchKeyEvent",
                **{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **text},
            )
        return chromium.evaluate("document.getElementById('large-title').textContent")

    names = chromium.evaluate("anomalyPage.rows.map(({ name }) => name)")
    chromium.evaluate("document.querySelector('#grid button').focus()")
    assert press("Enter") == names[0]
    assert press("ArrowRight") == names[1]
    chromium.evaluate("""void (globalThis.afterClose = new Promise((resolve) =>
        document.getElementById("large").addEventListener("close", () => setTimeout(resolve))))""")
    press("Escape")
    chromium.evaluate("afterClose")  # `window.closed` is another thing
    assert not chromium.evaluate("document.getElementById('large').open")
    focused = chromium.evaluate("document.activeElement.querySelector('.name').textContent")
    assert focused == names[1]


def test_the_folder_works_on_a_web_server(browser, site, pictures):
    with served(site) as address:
        browser.open(address)
        assert browser.evaluate(READY) != "failed"
        rows = score_pictures(browser, pictures)
        found = compare(page_detector(site / "sota-int8.html"), pictures, rows)
        assert found["score_difference_largest"] < 1e-5
        assert all(request.startswith(address) for request in browser.requests)


def test_nothing_outside_of_the_page_can_be_reached(browser, page, site):
    with served(site) as address:
        open_page(browser, page)
        with pytest.raises(BrowserError):
            browser.evaluate(f"fetch({address + 'index.html'!r})")


COLOUR, SIZE, WEIGHTS = (12, 10, 3), (45, 61), (0.5, 0.25, 0.125)


@pytest.fixture(scope="module")
def drawn_page(litert_js, made_once) -> Callable[..., Path]:
    """The page of a detector whose score is the mean of its map, of tiles or with a region."""

    def page(kind: str) -> Path:
        def make(folder: Path) -> None:
            detector = weighing_detector((64, 64, 3) if kind == "tiles" else COLOUR, WEIGHTS)
            if kind == "tiles":
                detector.info.image_shape = [100, 150, 3]
                detector.info.tiling = Tiling(64, 16)
            else:
                inside = np.zeros(SIZE, bool)
                inside[5:30, 10:50] = True
                detector.info.roi = RoiFacts("mask.png", "0" * 64, Region(inside).to_png())
            images = np.random.default_rng(1).integers(
                0, 256, (20, *detector.image_shape), np.uint8
            )
            samples = np.zeros((1, *detector.input_shape), np.uint8)
            page = folder / "page.html"
            exporters.export_page(detector, page, "none", normal_set(images), samples)

        return made_once(kind, make) / "page.html"

    return page


def coloured_noise(path: Path, height: int, width: int) -> Path:
    draw = np.random.default_rng(len(path.name))
    Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def test_a_detector_in_colours_with_a_region(browser, drawn_page, tmp_path):
    page = drawn_page("region")
    files = [coloured_noise(tmp_path / f"{'n' * number}.png", *SIZE) for number in (1, 2, 3)]
    assert answers(browser, page, files)["score_difference_largest"] < 1e-6
    score_pictures(browser, [coloured_noise(tmp_path / "other.png", 44, 61)])
    assert "is 61x44, and the detector's mask is 61x45" in browser.evaluate(FAILURES)["other.png"]


def test_a_detector_of_tiles(browser, drawn_page, tmp_path):
    page = drawn_page("tiles")
    file = coloured_noise(tmp_path / "new.png", 130, 170)
    assert answers(browser, page, [file])["score_difference_largest"] < 1e-6
    own = page_detector(page)
    heat = own.explain(own.read(file)[None])[0]
    shown = browser.evaluate("""(async () => {
        const { detector, rows } = anomalyPage;
        return [...(await detector.judge((await detector.read(rows[0].file)).pixels)).error_map];
    })()""")
    np.testing.assert_allclose(np.reshape(shown, heat.shape), heat, rtol=1e-5, atol=1e-6)


def test_the_known_score_is_that_of_a_drawn_picture():
    detector = weighing_detector(COLOUR, WEIGHTS)
    known = known_score(detector)
    assert known == known_score(detector)
    assert 0 < known.tolerance < 1e-3 * known.score
    assert known.pixels_sha256 != hashlib.sha256(b"").hexdigest()


def test_a_detector_with_a_mask_for_each_picture_is_refused():
    roi = RoiFacts("masks/", "0" * 64)
    info = dataclasses.replace(weighing_detector(COLOUR, WEIGHTS).info, roi=roi)
    with pytest.raises(UserError, match="a mask for each picture"):
        web_page.require_page(info, "none")


def test_the_same_detector_gives_the_same_page(page, tmp_path):
    detector = page_detector(page)
    write_page(tmp_path / "again.html", detector._model, detector.info)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "web", "--batch-size", "2"), "--batch-size is an option of --format tflite"),
        (("--format", "web", "--quantize", "dynamic"), "--quantize dynamic rounds"),
        (("--format", "saved_model", "--quantize", "int8"), "--quantize is an option of"),
    ],
)
def test_wrong_options_are_refused_before_work(options, words, trained_run, tmp_path):
    with pytest.raises(UserError, match=words):
        export.main(["--run-dir", str(trained_run), "--output", str(tmp_path), *options])
    assert not list(tmp_path.iterdir())


def test_a_page_of_somebody_else_is_not_replaced(trained_run, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    options = ["--run-dir", str(trained_run), "--output", str(tmp_path), "--format", "web"]
    with pytest.raises(UserError, match=r"index.html exists and was not written by this command"):
        export.main(options)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_page_and_its_folder_are_replaced_by_the_next_export_only(site, tmp_path):
    outputs = site_outputs(site / "sota-int8.html") | export_outputs(site / "sota-int8.html")
    assert all(is_own(path) for path, is_own in outputs.items())
    copy = Path(shutil.copytree(site / "sota-int8", tmp_path / "sota-int8"))
    (copy / "notes.txt").write_text("mine")
    assert not site_outputs(tmp_path / "sota-int8.html")[copy](copy)


def test_the_licence_is_the_text_of_apache():
    own, shipped = ROOT / "LICENSE", ROOT / "anomaly_tf/deploy/web/LICENSE"
    assert own.read_text("utf-8") == shipped.read_text("utf-8")


def test_a_page_holds_the_licence_and_names_the_runtime(page, site):
    text = page.read_text("utf-8")
    assert "Apache License" in text
    assert "LiteRT.js (@litertjs/core 2.5.3" in text
    assert "Apache License" in (site / "sota-int8/LICENSE").read_text("utf-8")
