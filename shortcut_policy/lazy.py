"""Names of a package that are imported when they are asked for: a program pays for those that it uses."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package's ``__init__`` (PEP 562).

    Args:
        package: Its ``__name__``.
        homes: Public name -> module that defines it.

    Returns:
        Functions to assign to ``__getattr__`` and ``__dir__``. A name that was found is kept in the package.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, names
