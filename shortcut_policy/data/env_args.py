"""What a robomimic file says of the environment that it was recorded in."""

import json
from dataclasses import dataclass
from typing import Any

from shortcut_policy.errors import InputError

#: The attribute, JSON.
ENV_ARGS = "env_args"


@dataclass(frozen=True)
class EnvArgs:
    """The environment that a file was recorded in, from the attribute ``env_args``.

    Attributes:
        name: Of robosuite's environment, such as ``Lift`` or ``PickPlaceCan``.
        version: Of robosuite; empty where the file does not say it.
        kwargs: Arguments of ``robosuite.make``.
    """

    name: str
    version: str
    kwargs: dict[str, Any]

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> "EnvArgs":
        """Read the JSON of ``env_args``.

        Raises:
            InputError: It is not JSON, or lacks ``env_name``.
        """
        try:
            args = json.loads(text)
            name, kwargs = args["env_name"], dict(args.get("env_kwargs") or {})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"the env_args of {where} cannot be read ({error!r}): they must be JSON with env_name, "
                "env_version and env_kwargs"
            ) from error
        # robomimic's files say it in either place, the oldest not at all.
        version = args.get("env_version") or kwargs.pop("env_version", None)
        return cls(str(name), str(version or ""), kwargs)
