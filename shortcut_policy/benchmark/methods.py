"""The methods of a benchmark, as its configuration lists them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shortcut_policy.benchmark.result_files import slug
from shortcut_policy.errors import InputError
from shortcut_policy.settings import Count, Index, parse

SOURCES = ("checkpoint", "runs", "overrides", "published")


@dataclass(frozen=True)
class Method:
    """One method of the table; exactly one of `SOURCES` says where it is from.

    Attributes:
        name: What the table calls it.
        steps: Step counts to sample with.
        checkpoint: A checkpoint folder or a run folder.
        runs: Run folders of the same training with different seeds.
        overrides: Hydra overrides of ``configs/train.yaml``: train first.
        published: Folder of published results: show what they say, without a checkpoint.
        seeds: Training seeds for ``overrides``.
        newest_only: Those of ``steps`` that are too costly for more than the newest checkpoint.
        guidance: Scales to draw images with, a line of the table each, for a method that leaves it open.
        claim: What a paper says of its training compute relative to flow matching, for the compute table.
        train_minutes: Time budget of the training of one seed, for the announcement.
        rollout_minutes: Time budget of all its rollouts, for the announcement.
    """

    name: str
    steps: Sequence[Count]
    checkpoint: str | None = None
    runs: Sequence[str] | None = None
    overrides: Sequence[str] | None = None
    published: str | None = None
    seeds: Sequence[Index] = (0,)
    newest_only: Sequence[Count] = ()
    guidance: Sequence[float] = ()
    claim: str | None = None
    train_minutes: float | None = None
    rollout_minutes: float | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or "/" in self.name:
            raise InputError(
                f"benchmark entry name={self.name} must be a word or more, without '/': files are named "
                "after it"
            )
        if sum(getattr(self, source) is not None for source in SOURCES) != 1:
            raise InputError(f"benchmark entry '{self.name}' must have exactly one of {', '.join(SOURCES)}")
        for key in ("runs", "seeds"):
            given = list(getattr(self, key) or ())
            twice = next((one for one in given if given.count(one) > 1), None)
            if twice is not None:
                raise InputError(
                    f"benchmark entry '{self.name}' has {twice} twice in {key}: one training counts once"
                )
        for key in ("steps", "seeds"):
            if not getattr(self, key):
                raise InputError(f"benchmark entry '{self.name}' has {key}=[]: give one or more, such as [1]")


def wanted_cells(method: Method, checkpoints: Sequence[str], last_k: int) -> list[tuple[str, int]]:
    """(checkpoint, steps) that the table needs of a run with these checkpoints, oldest checkpoint first."""
    return [
        (checkpoint, steps)
        for checkpoint in checkpoints[-last_k:]
        for steps in method.steps
        if checkpoint == checkpoints[-1] or steps not in method.newest_only
    ]


def parse_methods(values: Any) -> list[Method]:
    """Methods from the list ``entries`` of a benchmark configuration.

    Raises:
        InputError: there are none, two share a name, or a key is missing or unknown.
    """
    if not values:
        raise InputError(
            "the benchmark has no entries: add 'entries: [{name: ..., checkpoint: ..., steps: [1]}]'"
        )
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(
            f"entries={values} must be a list of mappings, [{{name: ..., checkpoint: ..., steps: [1]}}]"
        )
    methods = [_parse_method(one) for one in values]
    names = [method.name for method in methods]
    slugs = [slug(name) for name in names]
    twice = next((name for name in names if slugs.count(slug(name)) > 1), None)
    if twice is not None:
        raise InputError(
            f"two benchmark entries are named '{twice}', or so that their files would be: rename one"
        )
    return methods


def _parse_method(values: Any) -> Method:
    if not isinstance(values, Mapping) or not values.keys() >= {"name", "steps"}:
        raise InputError(f"benchmark entry {values} must be a mapping with at least 'name' and 'steps'")
    owner = f"benchmark entry '{values['name']}'"
    return parse(Method, values, owner, prefix=f"{owner}: ")
