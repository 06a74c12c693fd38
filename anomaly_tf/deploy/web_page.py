"""The page of a detector: it scores pictures in the browser, with LiteRT.js, and sends nothing.

Its sources are the modules in the folder `web`. A page is one file with everything inside, which
opens by a double click, or a folder for a web server.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader

from anomaly_tf.deploy.detector import Quantization
from anomaly_tf.deploy.npm_packages import LITERT_JS, LITERT_WASM_UTILS, package_files
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.files import atomic_folder, atomic_path
from anomaly_tf.runs.outputs import PAGE_MARK, PAGE_METADATA

# Of the builds in the package the one that every browser runs; it needs no special headers.
RUNTIME_SCRIPT = "wasm/litert_wasm_compat_internal.js"
RUNTIME_WASM = "wasm/litert_wasm_compat_internal.wasm"
MODULE = "dist/index.js"
NOTICE = (
    f"This page contains LiteRT.js ({LITERT_JS.name} {LITERT_JS.version} and "
    f"{LITERT_WASM_UTILS.name} {LITERT_WASM_UTILS.version}), copyright Google LLC, and parts of "
    "anomaly_tf, both under the Apache License 2.0."
)
SOURCES = resources.files("anomaly_tf.deploy") / "web"
START = 'import "anomaly_tf/page.js";'
# No address outside of the page; scripts only those of the page.
POLICY = {
    "default-src": "'none'",
    "img-src": "blob: data:",
    "media-src": "blob: mediastream:",
    "base-uri": "'none'",
    "form-action": "'none'",
}


def require_page(info: DetectorInfo, quantization: Quantization) -> None:
    """Checks before starting work that a page can be written for a detector.

    Args:
        info: The metadata of the detector.
        quantization: The quantization of its model.

    Raises:
        UserError: If scores on the page would differ from those in Python, the detector needs a
            mask for each picture, or LiteRT.js cannot be fetched.
    """
    if quantization == "dynamic":  # measured: scores change in the fourth digit
        raise UserError(
            "--quantize dynamic rounds activations while it runs, and a browser rounds them "
            "otherwise than Python; use int8, float16 or none"
        )
    if info.roi and info.roi.mask is None:
        raise UserError(
            f"the detector was trained with a mask for each picture ({info.roi.source}), and a "
            "page has none for new pictures; train with one mask for all, or use --format tflite"
        )
    runtime_files()


def runtime_files() -> dict[str, bytes]:
    """The files of LiteRT.js: `litert.js`, `litert.wasm` and two modules, by their import names.

    Raises:
        UserError: As `package_files`.
    """
    core = package_files(LITERT_JS, (MODULE, RUNTIME_SCRIPT, RUNTIME_WASM))
    return {
        LITERT_JS.name: core[MODULE],
        LITERT_WASM_UTILS.name: package_files(LITERT_WASM_UTILS, (MODULE,))[MODULE],
        "litert.js": core[RUNTIME_SCRIPT],
        "litert.wasm": core[RUNTIME_WASM],
    }


def write_page(path: Path, model: bytes, info: DetectorInfo) -> None:
    """Writes the page as one file.

    Args:
        path: The HTML file; an existing one is replaced.
        model: The bytes of the LiteRT model.
        info: Its metadata, with `known`.

    Raises:
        UserError: As `runtime_files`.
        OSError: If the file cannot be written.
    """
    runtime = runtime_files()
    imports = {name: _data_url(content) for name, content in _modules(runtime).items()}
    text = _render(
        info,
        imports,
        sources="data:",
        connections="'none'",
        style=_source("style.css"),
        parts={
            "detector.json": _packed(_json(info)),
            "model.tflite": _packed(model),
            "litert.wasm": _packed(runtime["litert.wasm"]),
        },
        loader=runtime["litert.js"].decode("utf-8").replace("</script", "<\\/script"),
    )
    with atomic_path(path) as file:
        file.write_text(text, "utf-8")


def write_site(folder: Path, name: str, model: bytes, info: DetectorInfo) -> None:
    """Writes the page for a web server: `index.html`, and its parts in a folder beside it.

    Args:
        folder: The folder of `index.html`; other files in it stay as they are.
        name: Name of the folder of the parts; an existing one is replaced.
        model: As for `write_page`.
        info: As for `write_page`.

    Raises:
        UserError: As `runtime_files`.
        OSError: If the files cannot be written.
    """
    runtime = runtime_files()
    modules = {_file_name(key): content for key, content in _modules(runtime).items()}
    imports = {key: f"./{name}/{_file_name(key)}" for key in _modules(runtime)}
    files = modules | {
        "style.css": _source("style.css").encode(),
        "detector.json": _json(info),
        "model.tflite": model,
        "litert.js": runtime["litert.js"],
        "litert.wasm": runtime["litert.wasm"],
        "LICENSE": f"{NOTICE}\n\n{_source('LICENSE')}".encode(),
    }
    digests = {key: hashlib.sha256(content).hexdigest() for key, content in files.items()}
    manifest = {"format": PAGE_MARK, "files_sha256": digests}
    text = _render(info, imports, sources="'self'", connections="'self'", folder=name)
    with atomic_folder(folder / name) as new:
        for key, content in files.items():
            (new / key).write_bytes(content)
        (new / PAGE_METADATA).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    with atomic_path(folder / "index.html") as file:
        file.write_text(text, "utf-8")


def _modules(runtime: dict[str, bytes]) -> dict[str, bytes]:
    """The modules of the page and of LiteRT.js, by the names that they import each other by."""
    sources = sorted(file.name for file in SOURCES.iterdir() if file.name.endswith(".js"))
    own = {f"anomaly_tf/{name}": _source(name).encode() for name in sources}
    return own | {package.name: runtime[package.name] for package in (LITERT_JS, LITERT_WASM_UTILS)}


def _file_name(module: str) -> str:
    """Name of a module's file: `page.js` for `anomaly_tf/page.js`, else one without slashes."""
    own = module.removeprefix("anomaly_tf/")
    return own if own != module else f"{module.removeprefix('@').replace('/', '-')}.js"


def _render(
    info: DetectorInfo,
    imports: dict[str, str],
    sources: str,
    connections: str,
    style: str = "",
    **parts: object,
) -> str:
    """The HTML text, with a policy that allows what it holds and nothing else."""
    import_map = json.dumps({"imports": imports})
    inline = [import_map, START, *(text for text in (parts.get("loader"),) if text)]
    hashes = " ".join(_hash(str(text)) for text in inline)
    policy = POLICY | {
        # LiteRT.js compiles its WebAssembly.
        "script-src": f"{sources} 'wasm-unsafe-eval' {hashes}",
        "style-src": _hash(style) if style else sources,
        "connect-src": connections,
    }
    environment = Environment(loader=PackageLoader("anomaly_tf.deploy", "web"), autoescape=True)
    return environment.get_template("page.html.j2").render(
        mark=PAGE_MARK,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        title=f"Anomaly detector {info.approach}",
        imports=import_map,
        start=START,
        style=style,
        notice=NOTICE,
        licence=_source("LICENSE"),
        **parts,
    )


def _source(name: str) -> str:
    return (SOURCES / name).read_text("utf-8")


def _json(info: DetectorInfo) -> bytes:
    return json.dumps(info.to_json(), allow_nan=False).encode()


def _packed(content: bytes) -> str:
    # Without a date, so that the same export gives the same bytes.
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def _data_url(module: bytes) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(module).decode('ascii')}"


def _hash(text: str) -> str:
    """A source of the content security policy: the digest of an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
