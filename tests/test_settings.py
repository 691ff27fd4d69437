"""Plain values into typed settings, and the sentence about each that cannot be."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan

from shortcut_policy.errors import InputError
from shortcut_policy.settings import (
    Count,
    Index,
    Positive,
    Seed,
    Words,
    check_choice,
    check_fields,
    check_number,
    check_whole,
    parse,
)


@dataclass(frozen=True)
class Loop:
    max_steps: Count = 10
    rate: Positive = 0.1
    norm: Annotated[float, Gt(0), AllowInfNan()] = 1.0
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.99)
    keep: Index | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Entry:
    name: str
    steps: Sequence[Count] = (1,)


@dataclass(frozen=True)
class Settings:
    task: Mapping[str, Any]
    seed: Seed = 0
    precision: Literal["auto", "bf16"] = "auto"
    steps: Sequence[Count | Literal["auto"]] = (1,)
    fps: Annotated[float, Gt(0), Words("a number above 0, of frames a second")] = 10.0
    folder: Path | None = None
    share: Annotated[float, Ge(0), Le(1)] = 0.0
    loop: Loop = field(default_factory=Loop)
    entries: Sequence[Entry] = ()
    sources: Mapping[str, Entry] = field(default_factory=dict)
    other: Loop | None = None


def read(**values: Any) -> Settings:
    return parse(Settings, {"task": {}, **values}, "the configuration")


def test_values_become_what_is_annotated():
    settings = read(
        task={"_target_": "a.B"},
        seed=1e4,
        steps=[1, "auto"],
        folder="runs/a",
        loop={
            "max_steps": 2e3,
            "rate": 1,
            "norm": math.inf,
            "betas": [0, 0.5],
            "keep": None,
            "compiled": True,
        },
        entries=[{"name": 2024}, {"name": "b", "steps": [1, 2]}],
        sources={"lift": {"name": "c"}},
        other=None,
    )
    assert settings.seed == 10_000 and isinstance(settings.seed, int)
    assert settings.task == {"_target_": "a.B"} and settings.steps == [1, "auto"]
    assert settings.folder == Path("runs/a")
    assert settings.loop == Loop(2000, 1.0, math.inf, (0.0, 0.5), None, True)
    assert isinstance(settings.loop.max_steps, int) and isinstance(settings.loop.rate, float)
    assert settings.entries == (Entry("2024"), Entry("b", [1, 2]))
    assert settings.sources == {"lift": Entry("c")}
    assert settings.other is None and read(other={"rate": 2}).other == Loop(rate=2.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seed": 1.5}, f"seed=1.5 must be a whole number from 0 to {2**63 - 1}"),
        ({"seed": "1"}, "seed='1' (a text) must be a whole number from 0"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"seed": None}, "seed=None must be a whole number"),
        ({"seed": 2**63}, f"seed={2**63} must be a whole number"),
        ({"seed": [1]}, r"seed=[1] must be a whole number"),
        ({"precision": "fp8"}, "precision=fp8 must be auto or bf16"),
        ({"precision": None}, "precision=None must be auto or bf16"),
        ({"steps": 4}, "steps=4 must be a list, each of it a whole number from 1 on or auto"),
        ({"steps": ["4"]}, "steps=['4'] must be a list, each"),
        ({"fps": 0}, "fps=0 must be a number above 0, of frames a second"),
        ({"share": 2}, "share=2 must be a number from 0 to 1"),
        ({"folder": 3}, "folder=3 must be a path, or null"),
        ({"task": "pusht"}, "task=pusht must be a mapping"),
        ({"loop": {"max_steps": 0}}, "loop.max_steps=0 must be a whole number from 1 on"),
        ({"loop": {"rate": math.nan}}, "loop.rate=nan must be a number above 0"),
        ({"loop": {"rate": math.inf}}, "loop.rate=inf must be a number above 0"),
        ({"loop": {"rate": 10**400}}, f"loop.rate={10**400} must be a number above 0"),
        ({"seed": 10**400}, f"seed={10**400} must be a whole number"),
        ({"loop": {"rate": True}}, "loop.rate=True must be a number above 0"),
        ({"loop": {"norm": math.nan}}, "loop.norm=nan must be a number above 0"),
        ({"loop": {"betas": 0.9}}, "loop.betas=0.9 must be a list of two numbers from 0 to below 1"),
        ({"loop": {"betas": [0.9]}}, "loop.betas=[0.9] must be a list of two numbers"),
        ({"loop": {"betas": [0.9, 1]}}, "loop.betas=[0.9, 1] must be a list of two numbers"),
        ({"loop": {"keep": "abc"}}, "loop.keep=abc must be a whole number from 0 on, or null"),
        *[({"loop": {"compiled": v}}, f"loop.compiled={v} must be true or false") for v in ("no", 1, None)],
        ({"loop": {"max_step": 3}}, "loop has no setting 'max_step': did you mean 'max_steps'?"),
        ({"loop": None}, "loop=None must be a mapping; its settings are max_steps"),
        ({"entries": [{"name": "a"}, {}]}, "entries[1] lacks the setting 'name'; it also has steps"),
        ({"entries": [{"name": "a", "steps": [0]}]}, "entries[0].steps=[0] must be a list of whole numbers"),
        ({"entries": {"name": "a"}}, "entries={'name': 'a'} must be a list"),
        ({"sources": {"lift": {"name": None}}}, "sources.lift.name=None must be a text"),
        ({"sources": []}, "sources=[] must be a mapping"),
        ({"other": {"rate": 0}}, "other.rate=0 must be a number above 0"),
        ({"color": 1}, "the configuration has no setting 'color': it has task, seed"),
        ({"max_steps": 1}, "the configuration has no setting 'max_steps': did you mean 'loop.max_steps'?"),
    ],
)
def test_what_cannot_be_is_told_under_its_dotted_key(values: dict[str, Any], sentence: str):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        parse(Settings, {"task": {}, **values}, "the configuration", ("loop.max_steps",))


def test_a_missing_setting_is_named():
    with pytest.raises(InputError, match=r"^view lacks the setting 'task'; it also has seed"):
        parse(Settings, {}, "view")


def test_a_prefix_names_the_settings_as_the_command_line_does():
    with pytest.raises(InputError, match=r"^trainer.rate=0 must be"):
        parse(Loop, {"rate": 0}, "trainer", prefix="trainer.")


def test_a_dataclass_that_checks_itself_does_so_in_python_too():
    @dataclass(frozen=True)
    class Checked:
        n: Count = 1

        def __post_init__(self) -> None:
            check_fields(self, "checked.")

    assert Checked(1e3).n == 1000  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^checked.n=0 must be a whole number from 1 on"):
        Checked(0)


def test_checks_of_single_values_use_the_same_words():
    with pytest.raises(InputError, match=r"^n=0 must be a whole number from 1 on"):
        check_whole("n", 0, 1)
    with pytest.raises(InputError, match=r"^n=9 must be a whole number from 1 to 8"):
        check_whole("n", 9, 1, 8)
    for number in (10**400, math.nan, True, "1", "1e-3", -1):
        with pytest.raises(InputError, match=r"^rate=.* must be a share"):
            check_number("rate", number, lambda share: share >= 0, "a share")
    with pytest.raises(InputError, match=r"^mode=x must be a, b or true"):
        check_choice("mode", "x", ("a", "b", True))


def test_numbers_with_an_exponent_may_come_as_text() -> None:
    """As PyYAML gives 1e-3."""
    assert read(fps="1e-3").fps == 1e-3 and read(fps="+2.E1").fps == 20 and read(seed="1e3").seed == 1000
    assert read(loop={"betas": ["1e-1", 0.5], "keep": "2e0"}).loop == Loop(betas=(0.1, 0.5), keep=2)
    for wrong in ({"fps": "10"}, {"fps": "1e"}, {"seed": "1e-3"}, {"share": "nan"}, {"fps": "1e999"}):
        with pytest.raises(InputError):
            read(**wrong)
    assert read(task={"name": "1e3"}).task == {"name": "1e3"}, "what may be a text stays one"
