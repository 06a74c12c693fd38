"""Work on a Dask cluster: a scheduler and workers as real processes, some of which are killed."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import assert_one_line, run_script
from test_bulk import COUNT, model, parts_of, photos, reference, rows_in, started  # noqa: F401

from anomaly_tf import cluster as cluster_module
from anomaly_tf import commands
from anomaly_tf.benchmark import BenchmarkOptions, run_cells
from anomaly_tf.cluster import Cluster, cluster_executor, own_versions
from anomaly_tf.deploy import Detector
from anomaly_tf.deploy.shards import Shard, ShardScorer
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import executor, run_jobs
from measurements.dask_processes import DaskCluster, dask_cluster, wait_until


@pytest.fixture
def two_workers(tmp_path):
    with dask_cluster(tmp_path / "dask", 2) as cluster:
        yield cluster


def test_a_killed_worker_and_a_killed_driver_lose_nothing(
    model,  # noqa: F811
    photos,  # noqa: F811
    reference,  # noqa: F811
    two_workers: DaskCluster,
    tmp_path,
):
    output = tmp_path / "scores"
    arguments = ("--model", model, "--cluster", two_workers.address, "--shard-size", 10)
    arguments = (*arguments, "--output", output, photos)
    with started(*arguments) as driver:
        wait_until(lambda: parts_of(output) >= 3, driver)
        two_workers.workers[0].process.kill()
        already = parts_of(output)
        wait_until(lambda: parts_of(output) >= already + 5, driver)
        driver.kill()
        driver.communicate()
    assert parts_of(output) < COUNT / 10
    done = run_script("predict.py", *arguments)
    assert done.returncode == 2
    assert rows_in(output) == reference
    assert done.stderr.count("\n") == 2
    assert "; 2 unreadable" in done.stdout


def certificate(folder: Path, name: str, *options: object) -> None:
    """A key and a certificate, by the command of OpenSSL."""
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    files = ("-nodes", "-days", 2, "-keyout", folder / f"{name}-key.pem", "-out")
    arguments = (*command, *files, folder / f"{name}.pem", "-subj", f"/CN={name}", *options)
    subprocess.run([*map(str, arguments)], check=True, capture_output=True)


def certificates(folder: Path) -> Path:
    """A folder with an authority, and a certificate signed by it."""
    folder.mkdir()
    certificate(folder, "ca", "-addext", "basicConstraints=critical,CA:TRUE")
    authority = ("-CA", folder / "ca.pem", "-CAkey", folder / "ca-key.pem")
    certificate(folder, "cert", *authority, "-addext", "subjectAltName=IP:127.0.0.1")
    (folder / "cert-key.pem").rename(folder / "key.pem")
    return folder


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_with_tls_only_those_with_a_certificate_take_part(model, photos, tmp_path):  # noqa: F811
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    with dask_cluster(tmp_path / "dask", 1, certificates=ours) as cluster:
        assert cluster.address.startswith("tls://")
        stranger = cluster.start_worker("--death-timeout", 4, certificates=others)
        output = ("--output", tmp_path / "scores", "--cluster", cluster.address)
        command = ("predict.py", "--model", model, *output)
        for wrong in ((), ("--certificates", others)):
            done = run_script(*command, *wrong, photos / "0003.png")
            assert_one_line(done, cluster.address)
            assert not (tmp_path / "scores").exists()
        done = run_script(*command, "--certificates", ours, photos / "0003.png")
        assert (done.returncode in (0, 1), done.stderr) == (True, "")
        assert stranger.process.wait(60) != 0
        assert "Registered to" not in stranger.logged(r"[\s\S]+")


def test_another_version_a_missing_package_and_no_scheduler_are_one_line(
    model,  # noqa: F811
    photos,  # noqa: F811
    tmp_path,
):
    output = tmp_path / "scores"
    command = ("predict.py", "--model", model, "--output", output, "--cluster")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        done = run_script(*command, address, photos)
    assert_one_line(done, f"no Dask scheduler at {address}", "dask scheduler")
    info = tmp_path / "other" / "anomaly_tf-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: anomaly_tf\nVersion: 9.9\n")
    with dask_cluster(tmp_path / "dask", 0) as cluster:
        worker = cluster.start_worker(path=str(info.parent))
        worker.logged("Registered to:")
        place = worker.logged(r"Start worker at:\s+(\S+)")
        done = run_script(*command, cluster.address, photos)
        assert_one_line(done, f"worker at {place}", "anomaly_tf 9.9", "install the same version")
    assert not output.exists()


def test_dask_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UserError, match=r"--cluster needs the package distributed.*requirements-c"),
        cluster_executor(Cluster("tcp://127.0.0.1:1")),
    ):
        pass


def test_a_worker_without_the_model_or_with_another_is_named(model, photos, tmp_path):  # noqa: F811
    copy = Path(shutil.copytree(model.parent, tmp_path / "copy")) / model.name
    scorer = ShardScorer.of(Detector.load(copy))
    call = partial(scorer, Shard(0, [str(photos / "0003.png")]))
    copy.unlink()
    with pytest.raises(UserError, match=rf"worker on {socket.gethostname()} .*{copy}"):
        cluster_module._on_worker(own_versions(), call)
    with pytest.raises(
        UserError, match=r"worker on .*: numpy 0\.1, but|worker on .* but 0\.1 here"
    ):
        cluster_module._on_worker({**own_versions(), "numpy": "0.1"}, call)


# Stands for `python -m anomaly_tf`. The first training waits to be killed with its worker.
RECORDER = """
import json, os, signal, sys
from pathlib import Path

shared, command, *arguments = sys.argv[1:]
run = Path(arguments[arguments.index("--run-dir") + 1])
run.mkdir(parents=True, exist_ok=True)
try:
    Path(shared, "first").mkdir()
except FileExistsError:
    pass
else:
    temporary = Path(shared, "temporary")
    temporary.write_text(f"{os.getpid()} {os.getppid()}")
    temporary.rename(Path(shared, "waiting"))
    signal.pause()
seed = int(arguments[arguments.index("--seed") + 1]) if command == "train" else 0
(run / f"{command}.json").write_text(json.dumps(seed))
(run / "detector.json").write_text('{"versions": {"keras": "3"}}')
(run / "metrics.json").write_text('{"auroc": 0.75, "accuracy": 0.5}')
"""


def test_cells_of_a_benchmark_come_back_from_workers_of_which_one_is_killed(tmp_path, monkeypatch):
    (tmp_path / "recorder.py").write_text(RECORDER)
    program = (str(tmp_path / "recorder.py"), str(tmp_path))
    (tmp_path / "preload.py").write_text(
        f"from anomaly_tf import commands\ncommands.STARTED = {program!r}\n"
    )
    options = {
        "approaches": ("vae",),
        "protocols": ("one_class",),
        "normal_classes": (0, 1),
        "seeds": (3, 4),
    }
    with dask_cluster(tmp_path / "dask", 0) as cluster:
        workers = [cluster.start_worker("--preload", tmp_path / "preload.py") for _ in range(2)]
        for worker in workers:
            worker.logged("Registered to:")
        output = tmp_path / "away"
        arguments = [f"--{k.replace('_', '-')}={','.join(map(str, v))}" for k, v in options.items()]
        command = ["benchmark.py", *arguments, "--output", str(output)]
        with subprocess.Popen(
            [sys.executable, *command, "--cluster", cluster.address],
            cwd=Path(commands.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as driver:
            wait_until((tmp_path / "waiting").exists, driver)
            training, parent = map(int, (tmp_path / "waiting").read_text().split())
            handle = os.pidfd_open(training)
            [worker] = [one for one in workers if one.process.pid == parent]
            worker.process.kill()
            said, errors = driver.communicate(timeout=120)
    assert select.select([handle], [], [], 60)[0]  # the training ended with its worker
    os.close(handle)
    assert "[4/4]" in said, errors
    monkeypatch.setattr(commands, "STARTED", program)
    here = tmp_path / "here"
    found = {
        cell.name: result
        for cell, result, _ in run_cells(BenchmarkOptions(**options, output=str(here)))
    }
    assert len(found) == 4
    for name, result in found.items():
        away = json.loads((output / "cells" / f"{name}.json").read_text())
        assert {**away, "wall_seconds": 0} == {**result, "wall_seconds": 0}
        for path in (here / "runs" / name).iterdir():
            assert (output / "runs" / name / path.name).read_bytes() == path.read_bytes()


def test_a_worker_with_other_data_is_refused(tmp_path):
    (tmp_path / "1.png").write_bytes(b"one")
    work = commands.Commands([], Path("run"), str(tmp_path), "another digest")
    with pytest.raises(UserError, match=r"has other content than here; mount or copy"):
        commands.run_elsewhere(work)


def test_an_exception_of_a_worker_and_an_empty_cluster_are_reported(two_workers: DaskCluster):
    with (
        pytest.raises(ZeroDivisionError),
        executor(1, Cluster(two_workers.address)) as workers,
    ):
        list(run_jobs(partial(divmod, 1), [1, 0], workers))
