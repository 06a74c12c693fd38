"""Packages of the wheel; everything else is in pyproject.toml.

The YAML files of `configs/` lie at the root of the repository and inside the installed package.
"""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = [Path("configs"), *(path for path in Path("configs").iterdir() if path.is_dir())]
package_dir = {".".join(("anomaly_tf", *folder.parts)): str(folder) for folder in CONFIGS}

setup(
    packages=[*find_packages(include=["anomaly_tf*"]), *sorted(package_dir)],
    package_dir=package_dir,
    package_data={
        "anomaly_tf": ["py.typed"],
        "anomaly_tf.deploy": ["web/*"],
        "anomaly_tf.reporting": ["*.j2"],
        **{package: ["*.yaml"] for package in package_dir},
    },
)
