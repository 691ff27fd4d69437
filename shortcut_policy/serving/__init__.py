"""A policy behind a socket: websockets, msgpack, many clients at a time."""
