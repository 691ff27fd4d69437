"""A policy on another computer, as a control loop wants it: one observation in, one action out."""

import ssl as tls
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np

from shortcut_client.connection import Connection
from shortcut_client.errors import ClientError, RequestRefused
from shortcut_client.messages import NUMBERS, pack, unpack

#: The key of an observation under which the server looks for options.
REQUEST = "__request__"
#: Floats up to this number that are not whole are a picture in 0..1.
BRIGHTEST_UNIT = 1.5


@dataclass
class _Episode:
    """What is remembered of the episode that is played; see ``shortcut_policy.control.Episode``."""

    number: int
    options: dict[str, Any]
    history: list[dict[str, np.ndarray]] = field(default_factory=list)
    chunk: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    played: int = 0
    chunks: int = 0
    #: What the server said that gave the first chunk.
    begun: Optional[dict[str, Any]] = None


class ShortcutClient:
    """Acts with the policy of a server. One object is for one robot, and for one thread at a time.

    Args:
        url: Where the server says that it is, ``ws://127.0.0.1:8000``.
        api_key: If the server wants one.
        ssl: Context for ``wss://``, for certificates that the system does not trust.
        timeout: Seconds in which an answer has to come.
        patience: Seconds for which a server that cannot be reached is called again, such as one that is
            started again. Choose it with the robot in mind: for so long no action comes.

    Raises:
        RequestRefused: The server turned us away.
        ServerUnavailable: There is none.

    Example:
        >>> with ShortcutClient("ws://127.0.0.1:8000") as policy:
        ...     policy.reset(seed=0)
        ...     obs, _ = env.reset()
        ...     obs, *_ = env.step(policy.select_action(obs))
    """

    def __init__(
        self,
        url: str,
        api_key: Optional[str] = None,
        ssl: Optional[tls.SSLContext] = None,
        timeout: float = 10.0,
        patience: float = 30.0,
    ) -> None:
        self._connection = Connection(url, api_key, ssl, timeout, patience)
        self._connection.open()
        self._episode: Optional[_Episode] = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server says of its policy: ``obs`` and ``action`` with shapes and units, ``n_obs_steps``,
        ``n_action_steps``, ``horizon``, ``rate_hz``, ``steps`` and more.
        """
        return self._connection.metadata

    def infer(self, obs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """An action chunk for an observation.

        Args:
            obs: name -> (*shape), one step, or (n_obs_steps, *shape), the last steps with the oldest first.
            options: Such as ``steps=4`` and ``seed=0``; the metadata list them.

        Returns:
            ``actions`` (n_action_steps, A) float32, ``evaluations`` of the network and ``server_timing`` in
            milliseconds.

        Raises:
            RequestRefused: The server says in one sentence what is wrong.
            ServerUnavailable: It does not answer in time.
        """
        return self._infer(obs, options)

    def _infer(
        self, obs: Mapping[str, Any], options: Mapping[str, Any], begun: Optional[dict[str, Any]] = None
    ) -> dict[str, Any]:
        """See `infer` and `Connection.ask`."""
        _check_names(obs)
        try:
            message = pack({**obs, REQUEST: options} if options else dict(obs))
        except TypeError as error:
            raise RequestRefused(str(error)) from error
        answer = unpack(self._connection.ask(message, begun))
        if not isinstance(answer, dict) or not isinstance(answer.get("actions"), np.ndarray):
            raise ClientError("the server's answer holds no actions: is it a policy server?")
        return answer

    def reset(
        self,
        steps: Union[int, str, None] = None,
        seed: Optional[int] = None,
        episode: Optional[int] = None,
        guidance: Optional[float] = None,
    ) -> None:
        """Begin an episode: forget the history and the rest of the chunk, and say how to sample.

        Args:
            steps: Sampling steps, a number or ``auto``; None for the server's.
            seed: Of the noise, from 0 on; None for the server's.
            episode: Number of the episode; if None one more than that of the last one, 0 at first.
            guidance: For policies that were trained with a range of scales.
        """
        options = {"steps": steps, "seed": seed, "guidance": guidance}
        if episode is None:
            episode = 0 if self._episode is None else self._episode.number + 1
        self._episode = _Episode(
            episode, {name: value for name, value in options.items() if value is not None}
        )

    def select_action(self, obs: Mapping[str, Any]) -> np.ndarray:
        """The action for the step that was just observed; call it once in each step of the loop.

        It keeps the last observations itself and sends the whole history, so that a server that was started
        again goes on where the last one ended. Most calls return at once; one in ``n_action_steps`` asks the
        server.

        Args:
            obs: name -> (*shape), one step. Further names are not sent.

        Returns:
            (A,) float32 in environment units, the caller's to change.

        Raises:
            RequestRefused: The observation is wrong. It is not kept then. Or the server was started again
                with another policy than the one that began the episode.
            ServerUnavailable: No answer came. Calling again goes on from the observations before.
        """
        if self._episode is None:
            self.reset()
        playing = self._episode
        assert playing is not None
        step, count = self._one_step(obs), self.metadata["n_obs_steps"]
        # The first observation fills the history.
        history = [*(playing.history or [step] * count), step][-count:]
        if playing.played == len(playing.chunk):
            stacked = {name: np.stack([step[name] for step in history]) for name in step}
            place = {"episode": playing.number, "chunk": playing.chunks}
            found = self._infer(stacked, {**playing.options, **place}, playing.begun)
            playing.chunk, playing.begun = found["actions"], playing.begun or self.metadata
            playing.played, playing.chunks = 0, playing.chunks + 1
        playing.history = history
        playing.played += 1
        action: np.ndarray = playing.chunk[playing.played - 1].copy()
        return action

    def close(self) -> None:
        """Hang up; a later call connects again."""
        self._connection.close()

    def __enter__(self) -> "ShortcutClient":
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def _one_step(self, obs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Copies of what the policy observes, checked as the server does: what is kept must be no reason to
        refuse those that come after.
        """
        _check_names(obs)
        expected = self.metadata["obs"]
        missing = sorted(set(expected) - set(obs))
        if missing:
            raise RequestRefused(
                f"the policy observes {', '.join(sorted(expected))}, and {', '.join(missing)} is missing"
            )
        for name in expected:
            if np.ma.is_masked(obs[name]):
                raise RequestRefused(f"observation '{name}' has numbers that are masked: fill them in")
        step = {name: _array(name, obs[name]) for name in expected}
        for name, value in step.items():
            if list(value.shape) != list(expected[name]["shape"]):
                raise RequestRefused(
                    f"observation '{name}' has shape {list(value.shape)}, expected "
                    f"{list(expected[name]['shape'])}: one step"
                )
            if value.dtype.kind == "f" and not _finite(value):
                raise RequestRefused(f"observation '{name}' holds NaN or infinity: no action can rest on it")
            if expected[name].get("image"):
                step[name] = _pixels(name, value)
        return step


def _check_names(obs: Any) -> None:
    if not isinstance(obs, Mapping) or not all(isinstance(name, str) for name in obs):
        raise RequestRefused(
            "observations must be a mapping of names to arrays, not "
            f"{type(obs).__name__ if not isinstance(obs, Mapping) else 'one of other keys than texts'}"
        )


def _finite(value: np.ndarray) -> bool:
    """Whether numbers are finite in float32, in which the policy computes."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(value.astype(np.float32)).all())


def _pixels(name: str, picture: np.ndarray) -> np.ndarray:
    """A picture of pixels in 0..255, whole numbers as bytes; see ``shortcut_policy.control.as_pixels``."""
    if picture.dtype == np.bool_:  # black and white
        return np.where(picture, 255, 0).astype(np.uint8)
    low, high = picture.min(), picture.max()
    is_float = picture.dtype.kind == "f"
    is_unit = is_float and 0 < high <= BRIGHTEST_UNIT
    is_unit = is_unit and bool(high <= 1 or (picture != picture.round()).any())
    if low < 0 or high > 255 or is_unit:
        raise RequestRefused(
            f"observation '{name}' holds numbers from {low:.3g} to {high:.3g}, and the policy sees pixels in "
            "0..255: give it as bytes (np.uint8), such as (255 * picture).round().astype(np.uint8)"
        )
    return picture if is_float else picture.astype(np.uint8)


def _array(name: str, value: Any) -> np.ndarray:
    """A copy of an observation as an array of numbers that can be sent."""
    array = _copy(name, value)
    if array.dtype.kind not in NUMBERS:
        raise RequestRefused(f"observation '{name}' is an array of {array.dtype}: give real numbers")
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


def _copy(name: str, value: Any) -> np.ndarray:
    try:
        return np.array(value)
    # Lists of rows of several lengths; tensors of torch on a GPU, or with a gradient.
    except (ValueError, TypeError, RuntimeError) as error:
        raise RequestRefused(
            f"observation '{name}' is no array ({error}): give a NumPy array, such as "
            "tensor.detach().float().cpu().numpy()"
        ) from error
