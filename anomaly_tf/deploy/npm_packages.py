"""Files of npm packages, each pinned by version and digest: LiteRT.js, for the page of a detector.

A package is fetched once from the npm registry and kept in the user's cache, as the archive that
`npm pack` writes; its digest is checked whenever it is read. Needs the standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import re
import tarfile
import threading
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from anomaly_tf.errors import UserError
from anomaly_tf.reachability import GIVE_UP_SECONDS, Unreachable
from anomaly_tf.runs.caches import user_caches
from anomaly_tf.runs.files import atomic_path

DEFAULT_REGISTRY = "https://registry.npmjs.org"
# npm's own names of the setting, in the environment and in the user's .npmrc.
REGISTRY_VARIABLE, USER_CONFIG_VARIABLE = "npm_config_registry", "npm_config_userconfig"
MAX_ARCHIVE_BYTES, CHUNK = 64 * 2**20, 2**16


@dataclass(frozen=True)
class NpmPackage:
    """A package of one version.

    Attributes:
        name: Its name, with its scope.
        version: Its version.
        sha512: Digest of its archive in base64, as `npm view NAME dist.integrity` prints it.
        licence: Its licence, as an SPDX identifier.
    """

    name: str
    version: str
    sha512: str
    licence: str

    @property
    def archive(self) -> str:
        """Name of the archive: `litertjs-core-2.5.3.tgz` for `@litertjs/core`."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def address(self) -> str:
        """Address of the archive in a registry, after the registry's own."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"

    def matches(self, content: bytes) -> bool:
        """True if the digest of an archive is that of the package."""
        return base64.b64encode(hashlib.sha512(content).digest()).decode() == self.sha512


LITERT_JS = NpmPackage(
    "@litertjs/core",
    "2.5.3",
    "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    "Apache-2.0",
)
LITERT_WASM_UTILS = NpmPackage(
    "@litertjs/wasm-utils",
    "2.5.3",
    "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
    "Apache-2.0",
)


def package_cache() -> Path:
    """The folder of the fetched archives; it need not exist."""
    return user_caches() / "npm"


def package_files(package: NpmPackage, names: Iterable[str]) -> dict[str, bytes]:
    """Files of a package, from the user's cache or the npm registry.

    Args:
        package: The package.
        names: Paths of the files inside it.

    Returns:
        The content of each file, by its path.

    Raises:
        UserError: If the package is not in the cache and the registry cannot be reached or serves
            something else, or the cache cannot be written.
    """
    content = _archive(package)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in names:
            member = archive.extractfile(f"package/{name}")
            assert member is not None, f"{name} is a file of this version"
            files[name] = member.read()
    return files


def _archive(package: NpmPackage) -> bytes:
    """The archive, from the cache or the registry; a damaged one is fetched again."""
    kept = package_cache() / package.archive
    try:
        content = kept.read_bytes()
    except OSError:
        content = b""
    if package.matches(content):
        return content
    base, kind = registry(), "damaged" if content else "not"
    remedy = f"connect to the internet, or put the file {package.archive} (npm pack "
    remedy += f"{package.name}@{package.version}) into {kept.parent}"
    try:
        content = _download(f"{base}/{package.address}")
    except Unreachable as error:
        raise UserError(
            f"{package.name} {package.version} is {kind} in the cache, and the npm registry "
            f"{error}; {remedy}"
        ) from error
    if not package.matches(content):
        raise UserError(
            f"{base} served another file than {package.name} {package.version} (another SHA-512 "
            f"digest); set {REGISTRY_VARIABLE} to another registry, or {remedy}"
        )
    try:
        with atomic_path(kept) as path:
            path.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"cannot write the cache {kept.parent}: {error.strerror}; set XDG_CACHE_HOME to "
            "another folder"
        ) from error
    return content


def registry() -> str:
    """Address of the npm registry: that of npm's environment variable, .npmrc or the public one.

    Raises:
        UserError: If it is not an address of a web server.
    """
    variables = {name.lower(): value for name, value in os.environ.items() if value}
    config = Path(variables.get(USER_CONFIG_VARIABLE) or Path.home() / ".npmrc")
    found, source = variables.get(REGISTRY_VARIABLE, ""), REGISTRY_VARIABLE
    if not found:
        try:
            text = config.read_text("utf-8", "replace")
        except OSError:
            text = ""
        lines = re.findall(r"^\s*registry\s*=\s*(\S+)\s*$", text, re.MULTILINE)
        found, source = (lines or [DEFAULT_REGISTRY])[-1].strip("'\""), str(config)
    if not re.match(r"https?://[^/\s]+", found):
        raise UserError(f"{source} sets {found!r}, which is no address of an npm registry")
    return found.rstrip("/")


def _download(address: str) -> bytes:
    """Content of a file on the web; gives up after `GIVE_UP_SECONDS` without an answer.

    Raises:
        Unreachable: If its host does not answer in time, does not serve the file, or sends more
            than `MAX_ARCHIVE_BYTES`.
    """
    parts: list[bytes] = []
    problems: list[str] = []
    arrived, done = threading.Event(), threading.Event()

    def fetch() -> None:
        try:
            # https or http, see `registry`.
            with urllib.request.urlopen(address, timeout=GIVE_UP_SECONDS) as answer:  # nosec B310
                while len(parts) * CHUNK <= MAX_ARCHIVE_BYTES and (part := answer.read(CHUNK)):
                    parts.append(part)
                    arrived.set()
        except (OSError, ValueError, http.client.HTTPException) as error:
            problems.append(str(error))
        done.set()
        arrived.set()

    # In a thread, because the timeout does not cover the DNS lookup.
    threading.Thread(target=fetch, daemon=True).start()
    while not done.is_set():
        if not arrived.wait(GIVE_UP_SECONDS) and not done.is_set():
            raise Unreachable(f"{address} did not answer within {GIVE_UP_SECONDS:g} s")
        arrived.clear()
    if problems:
        raise Unreachable(f"{address} cannot be reached: {problems[0]}")
    return b"".join(parts)
