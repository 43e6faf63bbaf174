"""Packages that detcam does without until they are asked for."""

from __future__ import annotations

import importlib
from typing import Any

from detcam.errors import MissingPackageError


def optional(module: str) -> Any:
    """Import a module of a package that detcam does not depend on.

    Raises:
        MissingPackageError: the package is not installed; the text says how to.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:  # it is there, and lacks something itself
            raise
        raise MissingPackageError(f"{package} is not installed: pip install {package}") from None
