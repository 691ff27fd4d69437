"""Where the inference of a chunk runs, behind one face: `concurrent.futures.Executor`."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any, Literal

Background = Literal["none", "thread", "process"]

#: Of a worker process: the object whose methods it calls, see `_adopt`.
_adopted: Any = None


def make_pool(background: Background, owner: object) -> Executor:
    """One worker that runs the methods of ``owner``; a process gets it once, pickled."""
    if background == "thread":
        return ThreadPoolExecutor(1, thread_name_prefix="chunks")
    return _OwnProcess(owner) if background == "process" else _Inline()


class _Inline(Executor):
    """Runs what it is given at once, in the thread of the caller."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _OwnProcess(Executor):
    """A process that holds a copy of ``owner`` and runs its methods there.

    It begins anew (spawn): a fork would inherit threads that compute, and hang.
    """

    def __init__(self, owner: object) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_adopt, initargs=(owner,))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return self._pool.submit(_call, fn.__name__, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def _adopt(owner: object) -> None:
    global _adopted
    _adopted = owner


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(_adopted, name)(*args, **kwargs)
