"""One inference at a time, for all clients, so that nobody's actions depend on who else asks."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from shortcut_policy.adaptive import Steps
from shortcut_policy.control import chunk_generator
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.serving.sessions import Answer, Noise, Question, Sampling

#: Batches before the first client, and batches in which rows are compared.
WARM_UP, TRIALS = 3, 3
#: A batch that takes less is computed in the thread of the sockets: to hand it to another one and back costs
#: a fifth of a millisecond. Clients notice nothing else, for they wait for the batch before theirs anyway.
QUICK_SECONDS = 0.02
#: Rounds of the loop that a message takes from the socket to the queue.
ROUNDS = 3

Found = tuple[np.ndarray, int, float | None]


class Job(NamedTuple):
    """A question in the queue.

    Attributes:
        question: The question.
        answer: Gets the `Answer`, or why there is none.
        wanted: Whether anybody waits for it still.
        since: When it came, by `time.perf_counter`.
    """

    question: Question
    answer: "asyncio.Future[Answer]"
    wanted: Callable[[], bool]
    since: float


class Batcher:
    """Answers questions in the order in which they come, as many at a time as fit into a batch.

    How the sums of a row are rounded depends on the number of rows, and in some batches on the row, but never
    on what the other rows hold. So every batch has ``batch_size`` rows, padded if fewer clients ask. Before
    the first client the rows are compared: those whose results are not the bits of the first are never used.
    A client gets the same bits alone and among others. With one row they are those of `Policy.act` for a
    batch of one.

    A batch is not waited for: it takes the questions that came while the one before was computed. All methods
    are for one event loop.

    Args:
        policy: The policy.
        batch_size: Rows of every batch. A lone client pays for all of them.
        steps: Sampling steps of the warm-up.
        observe: Called after each batch with questions in it, seconds it took, seconds that each had waited.
        quick_seconds: A warm batch that takes longer goes to a thread, so that the loop goes on meanwhile.
    """

    def __init__(
        self,
        policy: Policy,
        batch_size: int,
        steps: Steps,
        observe: Callable[[int, float, Sequence[float]], None] = lambda rows, seconds, waited: None,
        quick_seconds: float = QUICK_SECONDS,
    ) -> None:
        self._policy, self._batch_size, self._steps, self._observe = policy, batch_size, steps, observe
        self._queue: list[Job] = []
        self._quick, self._quick_seconds = False, quick_seconds
        self._thread, self._padding = ThreadPoolExecutor(1, "inference"), torch.Generator()
        self._worker: asyncio.Task[None] | None = None
        #: Rows that are used.
        self.places: list[int] = [0]

    async def start(self) -> None:
        """Warm up and begin.

        Raises:
            InputError: The policy cannot act.
        """
        loop = asyncio.get_running_loop()
        # What libraries prepare, they prepare for each thread.
        self._quick = await loop.run_in_executor(self._thread, self._warm_up) < self._quick_seconds
        if self._quick:
            self._warm_up()
        self._asked = asyncio.Event()
        self._worker = loop.create_task(self._work())

    async def ask(self, question: Question, wanted: Callable[[], bool] = lambda: True) -> Answer:
        """The answer to a question.

        Args:
            question: The question.
            wanted: Whether anybody waits for the answer still, asked when its turn comes.

        Raises:
            asyncio.CancelledError: It was not wanted any more.
            InputError: The policy has no finite action for it, or the server is going down.
        """
        if self._worker is None:
            raise _going_down()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if not self.is_quick:
            self._queue.append(Job(question, answer, wanted, time.perf_counter()))
            self._asked.set()
        elif wanted():
            self.answer(question, answer.set_result)
        else:
            answer.cancel()
        return await answer

    @property
    def is_quick(self) -> bool:
        """Whether `answer` can be used: batches are quick, and nobody could join one of a single row."""
        return self._quick and self._batch_size == 1

    def answer(self, question: Question, give: Callable[[Answer], None]) -> None:
        """Answer in this thread, and count when that is done.

        Raises:
            InputError: See `ask`.
        """
        if self._worker is None:
            raise _going_down()
        start = time.perf_counter()
        ((actions, evaluations, gap),) = self._infer([question])
        seconds = time.perf_counter() - start
        give(Answer(actions, evaluations, gap, 0.0, 1000 * seconds))
        self._observe(1, seconds, [0.0])

    async def close(self) -> None:
        """Finish the batch in work; questions that wait are told that the server goes down."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._asked.set()
            await worker
        for job in self._queue:
            if not job.answer.done():
                job.answer.set_exception(_going_down())
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._worker is not None:
            await self._asked.wait()
            self._asked.clear()
            while self._worker is not None and (batch := self._next()):
                if self._quick:
                    answers = self._answers(batch)
                else:
                    answers = await loop.run_in_executor(self._thread, self._answers, batch)
                _give(batch, answers)
                # Answers go out, and who asked meanwhile joins the next batch.
                for _ in range(ROUNDS):
                    await asyncio.sleep(0)

    def _next(self) -> list[Job]:
        """The oldest question with later ones of its kind, as many as there are places."""
        batch: list[Job] = []
        others: list[Job] = []
        for job in self._queue:
            if not job.wanted():
                job.answer.cancel()
            elif len(batch) < len(self.places) and (not batch or job.question.kind == batch[0].question.kind):
                batch.append(job)
            else:
                others.append(job)
        self._queue = others
        return batch

    def _answers(self, batch: Sequence[Job]) -> list[Answer | Exception]:
        """What each question of a batch gets."""
        start = time.perf_counter()
        try:
            found = self._infer([job.question for job in batch])
        except Exception as error:
            # One of them was the reason: the others must not pay for it.
            return [error] if len(batch) == 1 else [self._answers([job])[0] for job in batch]
        seconds = time.perf_counter() - start
        waited = [start - job.since for job in batch]
        self._observe(len(batch), seconds, waited)
        return [
            Answer(actions, evaluations, gap, 1000 * wait, 1000 * seconds)
            for wait, (actions, evaluations, gap) in zip(waited, found, strict=True)
        ]

    def _infer(self, questions: Sequence[Question]) -> list[Found]:
        """Actions, evaluations and gap of each question."""
        # The padding repeats the first, to stay in range.
        rows = [questions[0]] * self._batch_size
        generators = [self._padding] * self._batch_size
        for place, question in zip(self.places, questions, strict=False):
            rows[place], generators[place] = question, chunk_generator(*question.noise)
        names = self._policy.obs_shapes
        obs = {name: torch.from_numpy(np.stack([row.obs[name] for row in rows])) for name in names}
        steps, guidance = questions[0].sampling
        found = self._policy.predict_with_cost(obs, steps, generators, guidance)
        actions = self._policy.executed(found.x).cpu().numpy()
        evaluations = found.evaluations.tolist()
        gaps = [None] * self._batch_size if found.gap is None else found.gap.tolist()
        used = self.places[: len(questions)]
        return [(actions[place].copy(), evaluations[place], gaps[place]) for place in used]

    def _warm_up(self) -> float:
        """Find the rows that can be used; seconds of the last batch."""
        random = np.random.default_rng(0)
        for _ in range(WARM_UP):
            begun = time.perf_counter()
            self._infer([self._trial(random)])
            seconds = time.perf_counter() - begun
        self.places = list(range(self._batch_size))
        for _ in range(TRIALS if self._batch_size > 1 else 0):
            self.places = [row for row in self._equal_rows(self._trial(random)) if row in self.places]
        return seconds

    def _equal_rows(self, question: Question) -> list[int]:
        """The rows in which a question is computed with the same bits as in the first.

        The outputs of all modules are compared: another order of a sum shows in few of the actions, which are
        few and rounded once more when they are scaled, and only now and then.
        """
        equal = np.ones(self._batch_size, bool)

        def compare(output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim and len(output) % self._batch_size == 0:
                rows = output.reshape(self._batch_size, -1)
                equal[:] &= (rows == rows[0]).all(1).cpu().numpy()

        modules = list(self._policy.modules())
        hooks = [
            module.register_forward_hook(lambda module, given, output: compare(output)) for module in modules
        ]
        try:
            places, self.places = self.places, list(range(self._batch_size))
            (first, *_), *others = self._infer([question] * self._batch_size)
        finally:
            self.places = places
            for hook in hooks:
                hook.remove()
        equal[1:] &= [np.array_equal(actions, first) for actions, *_ in others]
        return np.flatnonzero(equal).tolist()

    def _trial(self, random: np.random.Generator) -> Question:
        """A history somewhere in the range of the training data."""
        obs = {}
        for name, shape in self._policy.obs_shapes.items():
            size = (self._policy.n_obs_steps, *shape)
            if name in self._policy.cameras:
                obs[name] = random.integers(0, 256, size, np.uint8)
            else:
                inside = torch.from_numpy(random.uniform(-1, 1, size).astype(np.float32))
                there = self._policy.normalizer.unnormalize(name, inside.to(self._policy.device))
                obs[name] = there.cpu().numpy()
        return Question(obs, Noise(0, 0, 0), Sampling(self._steps, None))


def _give(batch: Sequence[Job], answers: Sequence[Answer | Exception]) -> None:
    for job, answer in zip(batch, answers, strict=True):
        if job.answer.done():  # cancelled with the task that waited
            continue
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)


def _going_down() -> InputError:
    return InputError("the server is going down: ask again later")
