"""Packages from an npm registry: pinned, fetched once, checked whenever they are read."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomaly_tf.deploy import npm_packages
from anomaly_tf.deploy.npm_packages import NpmPackage, package_files, registry
from anomaly_tf.errors import UserError


def archive_of(content: bytes) -> bytes:
    """What `npm pack` would write of a package with one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/dist/index.js")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


ARCHIVE = archive_of(b"export {};")
DIGEST = base64.b64encode(hashlib.sha512(ARCHIVE).digest()).decode()
PACKAGE = NpmPackage("@scope/thing", "1.2.3", DIGEST, "MIT")


class Handler(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Path]:
    """A registry on this machine, as its folder; its address is in npm's variable."""
    folder = tmp_path / "registry"
    (folder / "@scope/thing/-").mkdir(parents=True)
    monkeypatch.setattr(Handler, "asked", [], raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{running.server_port}/")
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder
        running.shutdown()


def serve(folder: Path, content: bytes) -> None:
    (folder / "@scope/thing/-/thing-1.2.3.tgz").write_bytes(content)


def test_a_package_is_fetched_once(server):
    serve(server, ARCHIVE)
    for _ in range(2):
        assert package_files(PACKAGE, ["dist/index.js"]) == {"dist/index.js": b"export {};"}
    assert Handler.asked == ["/@scope/thing/-/thing-1.2.3.tgz"]


def test_a_damaged_cache_is_fetched_again(server, tmp_path):
    serve(server, ARCHIVE)
    kept = tmp_path / "cache/anomaly_tf/npm/scope-thing-1.2.3.tgz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(ARCHIVE[:-1])
    package_files(PACKAGE, ["dist/index.js"])
    assert kept.read_bytes() == ARCHIVE


def test_a_file_put_into_the_cache_by_hand_is_enough(server, tmp_path):
    kept = tmp_path / "cache/anomaly_tf/npm/scope-thing-1.2.3.tgz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(ARCHIVE)
    assert package_files(PACKAGE, ["dist/index.js"])
    assert Handler.asked == []


def test_other_content_is_refused_and_not_kept(server, tmp_path):
    serve(server, archive_of(b"steal();"))
    with pytest.raises(UserError, match=r"another file than @scope/thing 1.2.3 .*SHA-512"):
        package_files(PACKAGE, ["dist/index.js"])
    assert not list(tmp_path.glob("cache/**/*.tgz"))


def test_without_the_file_the_remedy_is_named(server, tmp_path):
    with pytest.raises(UserError) as caught:
        package_files(PACKAGE, ["dist/index.js"])
    message = str(caught.value)
    assert "404" in message
    assert "npm pack @scope/thing@1.2.3" in message
    assert f"into {tmp_path}/cache/anomaly_tf/npm" in message
    assert "\n" not in message


def test_a_host_that_never_answers_is_given_up(silent_host, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", f"http://{silent_host}")
    monkeypatch.setattr(npm_packages, "GIVE_UP_SECONDS", 0.2)
    with pytest.raises(UserError, match="not in the cache"):
        package_files(PACKAGE, ["dist/index.js"])


def test_the_registry_is_that_of_npm(tmp_path, monkeypatch):
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry() == "https://registry.npmjs.org"
    (tmp_path / ".npmrc").write_text("fund=false\nregistry = https://mirror.example/npm/\n")
    assert registry() == "https://mirror.example/npm"
    monkeypatch.setenv("npm_config_registry", "https://other.example")
    assert registry() == "https://other.example"
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(UserError, match=r"npm_config_registry sets 'file:///etc'"):
        registry()
