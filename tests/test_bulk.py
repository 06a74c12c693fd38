"""Bulk scoring: every file once, whatever is killed; what is refused; names in little memory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, assert_one_line, run_script
from PIL import Image

from anomaly_tf.cli import bulk, predict
from anomaly_tf.data import names
from anomaly_tf.data.names import named_images, names_in, shards_of, spool
from anomaly_tf.data.search import Search, find_images
from anomaly_tf.deploy.shards import Shard, ShardScores
from anomaly_tf.errors import UserError
from measurements.dask_processes import wait_until

COUNT, BROKEN = 600, ("0007.png", "0345.png")


@pytest.fixture(scope="module")
def model(deployed) -> Path:
    return deployed["tflite"]


@pytest.fixture(scope="module")
def photos(small_arrays, tmp_path_factory) -> Path:
    """Many pictures in two folders; two are broken."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(COUNT):
        place = folder / "deep" if number % 3 else folder
        path = place / f"{number:04}.png"
        if path.name in BROKEN:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(small_arrays[2][number][..., 0]).save(path)
    return folder


def rows_in(folder: Path) -> list[str]:
    """The lines of all parts, sorted."""
    parts = sorted(folder.glob("part-*.jsonl"))
    return sorted(line for part in parts for line in part.read_text().splitlines())


@pytest.fixture(scope="module")
def reference(model, photos, tmp_path_factory) -> list[str]:
    """What one process finds."""
    output = tmp_path_factory.mktemp("reference") / "scores"
    arguments = ["--model", str(model), "--jobs", "1", "--output", str(output), str(photos)]
    assert predict.main(arguments) == 2
    return rows_in(output)


def started(*arguments: object) -> subprocess.Popen:
    """`predict.py` in a process of its own."""
    command = [sys.executable, str(ROOT / "predict.py"), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=ENVIRONMENT)


def parts_of(output: Path) -> int:
    return len(list(output.glob("part-*.jsonl")))


def children_of(process: subprocess.Popen) -> list[int]:
    """The processes that score for a driver."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_every_file_is_scored_once_and_as_without_a_folder(model, photos, reference, capsys):
    found = [json.loads(line) for line in reference]
    assert [row["file"] for row in found] == sorted(str(p) for p in photos.rglob("*.png"))
    errors = {Path(row["file"]).name: row["error"] for row in found if "error" in row}
    assert set(errors) == set(BROKEN)
    assert all("is not an image" in error for error in errors.values())
    predict.main(["--model", str(model), "--format", "jsonl", str(photos)])
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(alone, key=lambda row: row["file"]) == [r for r in found if "error" not in r]


def test_killed_processes_and_a_killed_driver_lose_nothing(model, photos, reference, tmp_path):
    output = tmp_path / "scores"
    arguments = ("--model", model, "--jobs", 2, "--shard-size", 10, "--output", output, photos)
    with started(*arguments) as driver:
        wait_until(lambda: parts_of(output) >= 3, driver)
        os.kill(children_of(driver)[0], signal.SIGKILL)
        already = parts_of(output)
        wait_until(lambda: parts_of(output) >= already + 6, driver)
        workers = [os.pidfd_open(pid) for pid in children_of(driver)]
        driver.kill()
        driver.communicate()
    assert workers
    for worker in workers:  # they end with their driver
        assert select.select([worker], [], [], 60)[0]
        os.close(worker)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 0 < len(kept) < COUNT / 10
    (output / ".partial-left.jsonl").write_text("of the killed driver")
    done = run_script("predict.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == len(BROKEN)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert rows_in(output) == reference
    assert {path.suffix for path in output.iterdir()} == {".json", ".jsonl", ".txt"}
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["files"], summary["unreadable"]) == (COUNT, len(BROKEN))
    anomalies = sum('"is_anomaly": true' in row for row in reference)
    assert summary["anomalies"] == anomalies
    assert done.stdout.startswith(f"{COUNT - 2} images, {anomalies} above the threshold of ")
    assert "; 2 unreadable\ndrift: " in done.stdout
    # A list gives the same manifest as the folder.
    again = run_script("predict.py", *arguments[:-1], output / "names.txt")
    assert (again.returncode, again.stdout) == (2, done.stdout)


def test_what_was_begun_otherwise_or_is_not_ours_is_refused(model, photos, tmp_path, capsys):
    output, few = tmp_path / "scores", tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.glob("*.png"))[:5]:
        os.link(path, few / path.name)
    arguments = ["--model", str(model), "--jobs", "1", "--output", str(output)]
    assert predict.main([*arguments, "--shard-size", "2", str(few)]) in (0, 1, 2)
    before = {path: path.read_bytes() for path in output.iterdir()}
    for more, words in (
        (["--shard-size", "3"], "another --shard-size (2; now 3)"),
        (["--shard-size", "2", "--false-alarm-rate", "0.5"], "another threshold"),
        (["--shard-size", "2", str(photos)], "another number of files (5; now 602)"),
        (["--shard-size", "2", "--max-pixels", "900"], "another --max-pixels"),
    ):
        extra = [str(few)] if str(photos) not in more else []
        with pytest.raises(UserError, match=r"was begun with") as caught:
            predict.main([*arguments, *more, *extra])
        assert words.replace("602", str(COUNT)) in str(caught.value)
    os.rename(few / "0003.png", few / "0004.png")
    with pytest.raises(UserError, match="another list of files"):
        predict.main([*arguments, "--shard-size", "2", str(few)])
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    os.rename(few / "0004.png", few / "0003.png")
    part = output / "part-000001.jsonl"
    part.write_bytes(before[part][:-40])
    with pytest.raises(UserError, match=r"part-000001\.jsonl is damaged .* remove it"):
        predict.main([*arguments, "--shard-size", "2", str(few)])
    part.unlink()
    predict.main([*arguments, "--shard-size", "2", str(few)])
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    foreign = tmp_path / "foreign"
    for name in ("letter.txt", "manifest.json", "names.txt"):
        foreign.mkdir()
        (foreign / name).write_text("{}")
        with pytest.raises(
            UserError, match=rf"not written by this command|{name} exists"
        ) as caught:
            predict.main([*arguments[:-1], str(foreign), str(few)])
        assert name in str(caught.value)
        assert [path.read_text() for path in foreign.iterdir()] == ["{}"]
        (foreign / name).unlink()
        foreign.rmdir()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--jobs", 2), "--jobs is for scores in a folder; give --output"),
        (("--cluster", "tcp://127.0.0.1:1"), "--cluster is for scores in a folder"),
        (("--output", "OUT", "--jobs", 0), "--jobs must be 1 to 256; got 0"),
        (("--output", "OUT", "--shard-size", 0), "--shard-size must be 1 to 100000; got 0"),
        (("--output", "OUT", "--format", "csv"), "leave out --format csv"),
        (("--output", "OUT", "--heatmaps", "h"), "--heatmaps writes a file for each image"),
        (("--output", "OUT", "--false-discovery-rate", 0.1), "needs all scores at the same time"),
        (("--output", ""), "--output is empty"),
        (("--output", "OUT", "--jobs", 2, "--cluster", "tcp://h:1"), "exclude each other"),
        (("--output", "OUT", "--certificates", "c"), "--certificates is for a cluster"),
        (("--output", "OUT", "--cluster", "tls://h:1", "--certificates", "c"), "c/ca.pem"),
        (("--output", "OUT", "--roi", "."), "--roi . is a folder"),
        (("--output", "OUT", "gone.txt"), "cannot read the list gone.txt"),
    ],
)
def test_options_that_make_no_sense_leave_nothing(options, words, model, photos, tmp_path):
    output = tmp_path / "scores"
    arguments = [str(output) if option == "OUT" else str(option) for option in options]
    with pytest.raises(UserError) as caught:
        predict.main(["--model", str(model), *arguments, str(photos)])
    assert words in str(caught.value)
    assert not output.exists()


def test_an_empty_folder_and_an_empty_list_leave_nothing(model, tmp_path):
    (tmp_path / "list.txt").write_text("\n\n")
    output = tmp_path / "scores"
    done = run_script("predict.py", "--model", model, "--output", output, tmp_path / "list.txt")
    assert_one_line(done, "there is no file to score")
    assert not output.exists()


def test_names_are_found_as_by_a_search_and_sorted_in_parts(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "MAX_SORTED", 7)
    monkeypatch.setattr(names, "PART_BLOCK", 50)
    odd = tmp_path / os.fsdecode(b"odd \xff\n.png")
    odd.write_bytes(b"")
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\0".join([os.fsencode(odd), b"relative.png", os.fsencode(photos), b""]))
    with listed.open("rb") as file:
        found, problems = named_images([photos, odd], [(file, "a list")], Search())
        spooled = spool(found, tmp_path / "spooled")
    expected = {str(path) for path, _ in find_images([photos, odd]).files}
    expected.add(os.path.abspath("relative.png"))
    shards = list(shards_of(tmp_path / "spooled", 100))
    assert [name for shard in shards for name in shard] == sorted(expected, key=os.fsencode)
    assert {len(shard) for shard in shards[:-1]} == {100}
    assert (spooled.count, spooled.repeated, problems) == (len(expected), 1, [])


@pytest.mark.parametrize("block", [4, 2**16])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb b\r\n\n\xffc", [b"a", b"b b", b"\xffc"]),
        (b"\xef\xbb\xbfa.png\n", [b"a.png"]),
        (b"a.png\0b\nc.png\r\0", [b"a.png", b"b\nc.png\r"]),
        (b"", []),
    ],
)
def test_lists_are_read_block_by_block(block, content, expected, tmp_path, monkeypatch):
    if block == 4 and b"\0" in content:
        pytest.skip("whether names are separated by NUL shows in the first block")
    monkeypatch.setattr(names, "BLOCK", block)
    (tmp_path / "list").write_bytes(content)
    with (tmp_path / "list").open("rb") as file:
        assert list(names_in(file, "a list")) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\x89PNG\r\n", "holds a picture"), ("a.png\nb.png\n".encode("utf-16"), "UTF-16")],
)
def test_what_is_no_list_is_refused(content, words, tmp_path):
    (tmp_path / "list").write_bytes(content)
    with (tmp_path / "list").open("rb") as file, pytest.raises(UserError, match=words):
        list(names_in(file, "a list"))


def test_a_file_that_only_this_machine_can_read_is_no_broken_file(photos):
    name = str(photos / "0003.png")
    shard = Shard(0, [str(photos / "gone.png"), name])
    for unseen in ([], [0]):  # lost here, too: a broken file
        bulk.require_seen(shard, ShardScores([None, 0.5], {0: "cannot read"}, unseen, "press-2"))
    with pytest.raises(UserError, match=rf"worker on press-2 cannot read {name}.*mount"):
        bulk.require_seen(shard, ShardScores([None, None], {}, [0, 1], "press-2"))
