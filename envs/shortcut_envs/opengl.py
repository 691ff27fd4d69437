"""Which OpenGL mujoco draws with on a machine that may have no screen."""

import atexit
import ctypes
import ctypes.util
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from shortcut_policy.errors import InputError, unraisable_ignored

#: What a program is told that has none.
INSTALL = (
    "drawing needs OpenGL without a screen. On Debian and Ubuntu install libegl1 libegl-mesa0 "
    "libgl1-mesa-dri, or libosmesa6 and set MUJOCO_GL=osmesa"
)


def choose_opengl() -> None:
    """Set ``MUJOCO_GL`` to EGL or, where that has nothing to draw on, to OSMesa; not where neither is there.

    A variable that is set stays. mujoco reads it when it is imported, and cannot change afterwards, so this
    comes first in every process that imports robosuite.
    """
    # Mesa without a GPU: more threads save no time, and take it from the other processes.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if os.environ.get("MUJOCO_GL") or "mujoco" in sys.modules or sys.platform != "linux":
        return
    for name, is_there in (("egl", _egl_is_there), ("osmesa", _osmesa_is_there)):
        # PyOpenGL's own variable, if it is set, binds mujoco too.
        if os.environ.get("PYOPENGL_PLATFORM", name) == name and is_there():
            os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = name
            return


def open_renderer(model: Any, size: int) -> Any:
    """mujoco's renderer of pictures (size, size), whatever size the model says its buffer has.

    Raises:
        InputError: There is no OpenGL to draw with.
    """
    import mujoco  # type: ignore[import-untyped]

    buffer = model.vis.global_
    buffer.offwidth, buffer.offheight = (max(side, size) for side in (buffer.offwidth, buffer.offheight))
    # What is half made is freed where the error ends, and mujoco's half-made parts fail at that, too.
    with warnings.catch_warnings(action="ignore"), unraisable_ignored():
        try:
            renderer = mujoco.Renderer(model, size, size)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            return closed_at_exit(renderer)
    raise InputError(f"rendering failed ({failure}): {INSTALL}")


def closed_at_exit(renderer: Any) -> Any:
    """A renderer that is closed at the end of the program: freed after OpenGL is, it would print an error."""
    atexit.register(renderer.close)
    return renderer


def close_renderer(renderer: Any) -> None:
    """Free the memory of a renderer of `open_renderer` or `closed_at_exit` now."""
    atexit.unregister(renderer.close)
    renderer.close()


def _egl_is_there() -> bool:
    """Whether EGL is installed and has a device, a GPU or Mesa's processor."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(
        address
    )
    devices = ctypes.c_int()
    return bool(query(0, None, ctypes.byref(devices))) and devices.value > 0


def _osmesa_is_there() -> bool:
    try:
        ctypes.CDLL(ctypes.util.find_library("OSMesa") or "libOSMesa.so.8")
    except OSError:
        return False
    return True


def check_installed(package: str, missing: str) -> None:
    """Raise `InputError` with the sentence ``missing`` unless the package of a simulator is installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(missing) from error


def drawn(render: Callable[[], Any]) -> np.ndarray:
    """The picture that a simulator draws.

    Raises:
        InputError: It cannot draw here.
    """
    try:
        picture: np.ndarray = render()
    except Exception as error:
        raise InputError(f"rendering failed ({type(error).__name__}: {error}): {INSTALL}") from error
    return picture
