"""One thread that infers, for all clients, so that nobody's actions depend on who else asks."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch
from torch import Tensor

from shortcut_policy.adaptive import Steps
from shortcut_policy.control import chunk_generator
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.serving.sessions import Answer, Noise, Question, Sampling

#: Batches before the first client, and batches in which rows are compared.
WARM_UP, TRIALS = 3, 3


class Batcher:
    """Answers questions in the order in which they come, as many at a time as fit into a batch.

    How the sums of a row are rounded depends on the number of rows, and in some batches on the row, but never
    on what the other rows hold. So every batch has ``batch_size`` rows, padded if fewer clients ask. Before
    the first client the rows are compared: those whose results are not the bits of the first are never used.
    A client gets the same bits alone and among others. With one row they are those of `Policy.act` for a
    batch of one.

    A batch is not waited for: it takes the questions that came while the one before was computed.

    Args:
        policy: The policy.
        batch_size: Rows of every batch. A lone client pays for all of them.
        steps: Sampling steps of the warm-up.
        observe: Called after each batch with questions in it, seconds it took, seconds that each had waited.
    """

    def __init__(
        self,
        policy: Policy,
        batch_size: int,
        steps: Steps,
        observe: Callable[[int, float, Sequence[float]], None] = lambda rows, seconds, waited: None,
    ) -> None:
        self._policy, self._batch_size, self._steps, self._observe = policy, batch_size, steps, observe
        self._queue: deque[tuple[Question, float]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._warm: Future[None] = Future()
        #: Rows that are used.
        self.places: list[int] = [0]
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Warm up, in the thread that will compute: what libraries prepare, they prepare for a thread.

        Raises:
            InputError: The policy cannot act.
        """
        self._thread.start()
        self._warm.result()

    def submit(self, question: Question) -> "Future[Answer]":
        """Put a question into the queue; cancel the future to take it back."""
        with self._changed:
            if self._closed:
                question.answer.set_exception(InputError("the server is going down: ask again later"))
            else:
                self._queue.append((question, time.perf_counter()))
                self._changed.notify()
        return question.answer

    def close(self) -> None:
        """Answer no more; returns when the batch in work is done. Questions in the queue are cancelled."""
        with self._changed:
            self._closed = True
            left = [question for question, _ in self._queue]
            self._queue.clear()
            self._changed.notify()
        for question in left:
            question.answer.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._warm_up()
        except BaseException as error:
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        while batch := self._next():
            self._answer(*zip(*batch, strict=True))

    def _next(self) -> list[tuple[Question, float]]:
        """The oldest question with later ones of its kind, as many as there are places; none at the end."""
        with self._changed:
            while not self._closed:
                taken: list[tuple[Question, float]] = []
                others: deque[tuple[Question, float]] = deque()
                while self._queue and len(taken) < len(self.places):
                    question, since = self._queue.popleft()
                    if taken and question.kind != taken[0][0].kind:
                        others.append((question, since))
                    elif question.answer.set_running_or_notify_cancel():
                        taken.append((question, since))
                self._queue.extendleft(reversed(others))
                if taken:
                    return taken
                self._changed.wait()
        return []

    def _answer(self, questions: Sequence[Question], since: Sequence[float]) -> None:
        start = time.perf_counter()
        outcomes: list[tuple[Tensor, int, float | None]] | None
        try:
            outcomes = self._infer(questions)
        except Exception as error:
            outcomes = None
            if len(questions) == 1:
                questions[0].answer.set_exception(error)
        if outcomes is None:
            # One of them was the reason: the others must not pay for it.
            for question, began in zip(questions, since, strict=True) if len(questions) > 1 else ():
                self._answer([question], [began])
            return
        seconds = time.perf_counter() - start
        self._observe(len(questions), seconds, [start - began for began in since])
        for question, began, (actions, evaluations, gap) in zip(questions, since, outcomes, strict=True):
            waited, took = 1000 * (start - began), 1000 * seconds
            question.answer.set_result(Answer(actions.numpy(), evaluations, gap, waited, took))

    def _infer(self, questions: Sequence[Question]) -> list[tuple[Tensor, int, float | None]]:
        """Actions, evaluations and gap of each question."""
        # The padding repeats the first, to stay in range.
        rows = [questions[0]] * self._batch_size
        for place, question in zip(self.places, questions, strict=False):
            rows[place] = question
        obs = {name: torch.stack([row.obs[name] for row in rows]) for name in self._policy.obs_shapes}
        generators = [torch.Generator()] * self._batch_size
        for place, question in zip(self.places, questions, strict=False):
            generators[place] = chunk_generator(*question.noise)
        steps, guidance = questions[0].sampling
        found = self._policy.predict_with_cost(obs, steps, generators, guidance)
        actions = self._policy.executed(found.x).cpu()
        evaluations = found.evaluations.tolist()
        gaps = [None] * self._batch_size if found.gap is None else found.gap.tolist()
        used = self.places[: len(questions)]
        return [(actions[place].clone(), evaluations[place], gaps[place]) for place in used]

    def _warm_up(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(WARM_UP):
            self._infer([self._trial(generator)])
        places = set(range(self._batch_size))
        for _ in range(TRIALS if self._batch_size > 1 else 0):
            self.places = list(range(self._batch_size))
            first, *others = self._infer([self._trial(generator)] * self._batch_size)
            places -= {row for row, other in enumerate(others, 1) if not torch.equal(other[0], first[0])}
        self.places = sorted(places)

    def _trial(self, generator: torch.Generator) -> Question:
        """A history somewhere in the range of the training data."""
        obs = {}
        for name, shape in self._policy.obs_shapes.items():
            size = (self._policy.n_obs_steps, *shape)
            if name in self._policy.cameras:
                obs[name] = torch.randint(256, size, dtype=torch.uint8, generator=generator)
            else:
                inside = (2 * torch.rand(size, generator=generator) - 1).to(self._policy.device)
                obs[name] = self._policy.normalizer.unnormalize(name, inside).cpu()
        return Question(obs, Noise(0, 0, 0), Sampling(self._steps, None))
