"""Whose code a stored file may run: what a checkpoint names is checked before any of it is imported.

A specification names what to build, ``{"_target_": "package.Class"}``, and building it runs the code of that
package. In a user's own configuration that is the user's wish. In a file that was trained elsewhere it is
somebody else's, so such a file may name the parts of this library, the layers of ``torch.nn`` and
environments that gymnasium makes, and beyond them the modules that the user says to trust.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shortcut_policy.build import find_target
from shortcut_policy.errors import InputError
from shortcut_policy.provenance import OWN_PACKAGES
from shortcut_policy.settings import is_class_path

#: Packages that a stored file may name without being trusted.
PACKAGES = (*OWN_PACKAGES, "torch.nn")
#: Packages with so much in them that to name one thing is not to trust all.
WIDE = ("torch", "gymnasium")
#: Where the classes are defined that policies are made of. The rest of the library does more than compute: it
#: writes and deletes files, and builds what it is told.
PARTS = (
    "shortcut_envs",
    "shortcut_policy.backbones",
    "shortcut_policy.data.robomimic_source",
    "shortcut_policy.data.source",
    "shortcut_policy.data.zarr_source",
    "shortcut_policy.encoders",
    "shortcut_policy.images.latents",
    "shortcut_policy.images.model",
    "shortcut_policy.objectives",
    "shortcut_policy.policy",
    "torch.nn",
)
#: Makes an environment from an id, ``package:name``; the package before the colon is imported.
MAKE = "gymnasium.make"
#: Environments of gymnasium that make those of its predecessor, by an id of their own.
COMPATIBILITY = re.compile(r"GymV\d+Environment")


def check_trust(file: Path, stored: Mapping[str, Any], trust: Sequence[str] = ()) -> None:
    """Refuse a stored specification that would run foreign code; nothing of such code is imported.

    Args:
        file: Where it is stored, for the sentence.
        stored: Any nesting of mappings and lists.
        trust: Modules, or packages with all that is in them, that may be named, too.

    Raises:
        InputError: Something to be built has no name, is in no package that may be named, or is not meant to
            be built from a file: it is no class, is not public, or only passes through a module that may be
            named.
    """
    trusted = trusted_modules(trust)
    found = list(_targets(stored))
    for key, target in found:
        if not is_class_path(name := target["_target_"]):
            raise InputError(
                f"{file} has _target_={name!r} under {key}, which is no package.Class: take another "
                "checkpoint"
            )
        _check_module(file, key, target, trusted)
    for key, target in found:
        if target["_target_"] != MAKE:
            _check_object(file, key, target["_target_"], trusted)


def trusted_modules(trust: str | Sequence[str] | None) -> tuple[str, ...]:
    """The modules of a setting ``trust``: a list, a single name for short, or None for none.

    Raises:
        InputError: One of them is not the name of a module.
    """
    names = (trust,) if isinstance(trust, str) else tuple(trust or ())
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"trust={name} must be names of Python modules, such as trust=[my_module]")
    return names


def trusted_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that checkpoints may name in a training: those of its setting ``trust``, and its own.

    Its own are the packages of all that the user's configuration builds: whoever names them trusts them. Of
    torch and gymnasium it is the module that is named, and this library has its own rules.
    """
    own = {
        name if package in WIDE else package
        for name in modules_named(config)
        if (package := name.partition(".")[0]) not in OWN_PACKAGES
    }
    return (*trusted_modules(config.get("trust")), *sorted(own))


def modules_named(value: Any) -> set[str]:
    """The modules that would be imported to build what a specification names."""
    return {_module(target) for _, target in _targets(value)} - {""}


def _check_module(file: Path, key: str, target: Mapping[str, Any], trusted: Sequence[str]) -> None:
    """Check by name alone what would be imported."""
    name, module = target["_target_"], _module(target)
    made = name == MAKE
    if made and (not module or _within(module, (*PACKAGES, *trusted))):
        if not isinstance(target.get("id", ""), str) or COMPATIBILITY.search(str(target.get("id"))):
            raise InputError(f"{file} names {target['id']} under {key}, which is no environment of its own")
        return
    if not _within(module, (*PACKAGES, *trusted)):
        named = f"the environment {target['id']}" if made else str(name)
        raise InputError(
            f"{file} names {named} under {key}, and to load it would run the code of module "
            f"'{module or name}', which is not part of this library: if you know that code and trust it, "
            f'allow it with trust=[{module or name}] on the command line or load_policy(path, trust=["'
            f'{module or name}"]) in Python'
        )
    private = any(part.startswith("_") for part in str(name).split("."))
    if not made and private and not _within(module, trusted):
        raise InputError(f"{file} names {name} under {key}, which is private: take another checkpoint")


def _check_object(file: Path, key: str, name: str, trusted: Sequence[str]) -> None:
    """Check what a name that may be imported leads to."""
    try:
        found = find_target(name)
    except InputError:
        # Nothing is built of it either, which `build` says; an environment may need what is not installed.
        return
    home = str(getattr(found, "__module__", None))
    if callable(found) and _within(home, trusted):
        return
    if not isinstance(found, type) or not _within(home, PARTS):
        raise InputError(
            f"{file} names {name} under {key}, which is not a class that models are made of"
            f"{'' if _within(home, PACKAGES) else f' (it belongs to {home}, which is not trusted)'}: take "
            "another checkpoint"
        )


def _targets(value: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings with a ``_target_`` in ``value``, by their dotted keys."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value
        for name, item in value.items():
            yield from _targets(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for number, item in enumerate(value):
            yield from _targets(item, f"{key}.{number}" if key else str(number))


def _module(target: Mapping[str, Any]) -> str:
    """The module that building imports first; "" for an environment whose id names none."""
    name = str(target["_target_"])
    if name == MAKE:
        return str(target.get("id", "")).rpartition(":")[0]
    return name.rpartition(".")[0]


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
