"""The parts of a benchmark, and the order in which a process takes them."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

from shortcut_policy.benchmark.config import BenchmarkConfig
from shortcut_policy.benchmark.evaluation import Evaluation, Which, cell_folder
from shortcut_policy.benchmark.methods import Method
from shortcut_policy.benchmark.phases import Phases
from shortcut_policy.benchmark.result_files import RunResults
from shortcut_policy.benchmark.sharing import Outcome, Part, Session, State
from shortcut_policy.benchmark.table import row_label
from shortcut_policy.benchmark.training_runs import Runs, TrainingRun, Trainings, is_trained, training_plan

#: Settings in which the processes of one benchmark may differ.
OWN = {"workers", "patience", "session"}
#: Seconds after which a process with nothing to take looks again.
AGAIN = 2.0
TABLE = Part("table", "the table", "table")


def common(config: BenchmarkConfig) -> dict[str, Any]:
    """The settings that all processes of a benchmark share."""
    return {key: value for key, value in asdict(config).items() if key not in OWN}


class Work:
    """What is to be done, for a process that shares it with others.

    Args:
        methods: To compare.
        runs: Their training seeds.
        config: Of the benchmark.
        trainings: Trains those that have to be trained.
        session: The processes that are at it.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        runs: Runs,
        config: BenchmarkConfig,
        trainings: Trainings,
        session: Session,
    ) -> None:
        self.methods, self.runs, self.config, self.session = methods, runs, config, session
        self._trainings = trainings
        self._evaluations = {
            (method.name, one.number): Evaluation(
                method, one, config, config.videos if method is methods[0] and number == 0 else 0
            )
            for method in methods
            for number, one in enumerate(runs[method.name])
            if one.results is None
        }

    def plan(self) -> list[tuple[str, float | None]]:
        """Titles and budgets of the phases of `run`, and of the three that make the table."""
        plan = training_plan(self.methods, self.runs)
        for method in self.methods:
            steps = ", ".join(map(str, method.steps))
            known = all(one.results for one in self.runs[method.name])
            budget = 0.0 if known else method.rollout_minutes
            plan.append((f"{'Read' if known else 'Roll out'} {method.name} at {steps} steps", budget))
        measure = "Measure" if self.config.measure else "Read"
        return [
            *plan,
            *((f"{measure} {what}", 0.5) for what in ("latencies", "training compute")),
            ("Write figures and report", 0.5),
        ]

    def parts(self) -> list[Part]:
        """All parts but the table; of a run that is not trained yet, the cells that it should have."""
        trained = [self._training(one) for one in self._all_runs() if one.training is not None]
        return trained + [
            self._cell(evaluation, which)
            for evaluation in self._evaluations.values()
            for which in evaluation.wanted()
        ]

    def run(self, phases: Phases) -> bool:
        """Do all parts that no other process does; those that failed are left.

        Returns:
            Whether all parts have ended, this session's way: False if the other processes have had the rest
            for longer than the patience of this one.

        Raises:
            Stopped: No part is to be begun any more.
        """
        announce: Callable[[], AbstractContextManager[None]] = phases.next
        idle = None
        while True:
            busy, did = self._pass(announce)
            if not busy:
                return True
            announce = nullcontext
            now = time.monotonic()
            idle = None if did else idle or now
            if idle is not None and now - idle > 60 * self.config.patience:
                return False
            if not did:
                time.sleep(AGAIN)

    def states(self) -> dict[Part, State]:
        """What is known of all parts."""
        return {part: self.session.state(part) for part in self.parts()}

    def out_of_reach(self) -> set[Part]:
        """The cells of trainings that failed."""
        return {
            self._cell(evaluation, which)
            for evaluation in self._evaluations.values()
            if evaluation.one.training is not None
            and self.session.state(self._training(evaluation.one)).ended is Outcome.FAILED
            for which in evaluation.wanted()
        }

    def results(self, method: Method) -> list[RunResults]:
        """What is known of the training seeds of a method, once all parts are done."""
        return [
            one.results or self._evaluations[method.name, one.number].results()
            for one in self.runs[method.name]
        ]

    def _pass(self, announce: Callable[[], AbstractContextManager[None]]) -> tuple[bool, bool]:
        """Look at all parts once.

        Returns:
            Whether others are at some, or some have to wait for them; and whether any was done here.
        """
        busy = did = False

        def take(part: Part, work: Callable[[], bool]) -> Outcome:
            nonlocal busy, did
            known = self.session.state(part).ended
            outcome = known or self.session.do(part, work)
            busy |= outcome is Outcome.BUSY
            did |= known is None and outcome is not Outcome.BUSY
            return outcome

        for one in self._all_runs():
            if one.training is not None:
                with announce():
                    outcome = take(self._training(one), partial(self._train, one))
                    if outcome is Outcome.BUSY and announce is not nullcontext:
                        print("  another process is at it")
        for method in self.methods:
            with announce():
                for one in self.runs[method.name]:
                    evaluation = self._evaluations.get((method.name, one.number))
                    if evaluation is None or not self._is_ready(one):
                        continue
                    for which in evaluation.wanted():
                        take(self._cell(evaluation, which), partial(evaluation.make, which))
        return busy, did

    def _is_ready(self, one: TrainingRun) -> bool:
        return one.training is None or self.session.state(self._training(one)).ended is Outcome.DONE

    def _train(self, one: TrainingRun) -> bool:
        assert one.training is not None
        finished = is_trained(one)
        self._trainings.run(one.training)
        return not finished

    def _all_runs(self) -> list[TrainingRun]:
        return [one for method in self.methods for one in self.runs[method.name]]

    def _training(self, one: TrainingRun) -> Part:
        name = one.folder.relative_to(self.config.output).as_posix()
        return Part(name, f"training of {one.folder.name}", "training")

    def _cell(self, evaluation: Evaluation, which: Which) -> Part:
        method, one = evaluation.method, evaluation.one
        folder = cell_folder(self.config, method, one.number, *which)
        title = f"{row_label(method.name, which[1])}, seed {one.number}, {which[0]}"
        return Part(folder.relative_to(self.config.output).as_posix(), title, "evaluation")
