"""A policy behind a socket: websockets, msgpack, many clients at a time."""

from importlib.util import find_spec

from shortcut_policy.errors import InputError

for _name in ("msgpack", "prometheus_client", "websockets"):
    if find_spec(_name) is None:
        raise InputError(
            f"serving needs {_name}, which is not installed: pip install 'shortcut-policy[serve]'"
        )
