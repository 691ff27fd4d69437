"""Asks a policy server for actions; needs NumPy, msgpack and websockets."""

from shortcut_client.client import ShortcutClient
from shortcut_client.errors import ClientError, RequestRefused, ServerUnavailable

__all__ = ["ClientError", "RequestRefused", "ServerUnavailable", "ShortcutClient"]
