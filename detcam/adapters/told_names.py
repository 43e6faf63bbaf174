"""Class names as a user gives them in Python: in order, or by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from detcam.errors import InputError


def ordered_names(given: Any) -> tuple[str, ...] | None:
    """Class names in order of their ids.

    Args:
        given: names in that order; or id -> name, as ultralytics keeps them; None for none.

    Raises:
        InputError: it is one text, an id is missing, or a name is no text.
    """
    if given is None:
        return None
    if isinstance(given, str | bytes):
        raise InputError(f"names {given!r} are one text: give one name for each class, in a list")
    if not isinstance(given, Iterable):
        raise InputError(
            f"names are a {type(given).__name__}: give a list, or a dictionary from ids to names"
        )
    names = _in_order(given) if isinstance(given, Mapping) else list(given)
    for index, name in enumerate(names):
        # YAML reads a class called `no` or `1` as false or a number.
        if not isinstance(name, str | int | float | bool) or not str(name).strip():
            raise InputError(f"the name of class {index} is no text ({type(name).__name__})")
    return tuple(str(name) for name in names)


def _in_order(names: Mapping[Any, Any]) -> list[Any]:
    missing = next((index for index in range(len(names)) if index not in names), None)
    if missing is not None:
        raise InputError(
            f"the names' ids must be 0 to {len(names) - 1} without a gap, but {missing} is missing"
        )
    return [names[index] for index in range(len(names))]
