"""Images of a robosuite scene as functions of its model and joint positions alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shortcut_envs.opengl import close_renderer, open_renderer

#: Geometry that is for collisions only, which robosuite hides too.
COLLISION_GROUP = 0


class Drawing:
    """Draws cameras of a model of mujoco.

    The images among robosuite's observations need not show the state that is observed beside them: with
    1.5.1 up to 40% of the pixels of a wrist camera differed from a drawing of that state. Here they are those
    of the state to the bit, at play and from a recording. The simulation is not touched.

    Args:
        size: Side of the images in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._renderer: Any = None
        self._data: Any = None

    def __call__(self, model: Any, positions: np.ndarray, cameras: Sequence[str]) -> list[np.ndarray]:
        """Images (size, size, 3) uint8, one a camera.

        Args:
            model: mujoco's, which may be another one at each call.
            positions: (nq,) of its joints.
            cameras: Names that the model knows.

        Raises:
            InputError: There is no OpenGL to draw with.
        """
        import mujoco  # type: ignore[import-untyped]

        if self._renderer is None or self._renderer.model is not model:
            self._open(model)
        self._data.qpos[:] = positions
        for place in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight):
            place(model, self._data)
        options = mujoco.MjvOption()
        options.geomgroup[COLLISION_GROUP] = 0
        images = []
        for camera in cameras:
            self._renderer.update_scene(self._data, camera, options)
            images.append(self._renderer.render())
        return images

    def close(self) -> None:
        """Free the memory of the renderer; the next image makes another one."""
        if self._renderer is not None:
            close_renderer(self._renderer)
            self._renderer = None

    def _open(self, model: Any) -> None:
        import mujoco

        self.close()
        self._renderer = open_renderer(model, self.size)
        self._data = mujoco.MjData(model)
