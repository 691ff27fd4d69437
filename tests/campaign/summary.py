"""Puts the parts of the campaign together: ``results/campaign/results.json``.

    python tests/campaign/summary.py place=/tmp/campaign batch=2

Counts of kills and faults come from what their scripts have kept in ``place``, and go into ``kills.json`` and
``faults.json`` beside the result; without a place those files stay as they are. A place is a batch there: one
of the same name is replaced, those of other names stay, and all are added up. So a campaign of a later
version, in a place of its own, is counted beside the earlier ones. The other parts write files of their own
there: ``fuzz.json``, ``load.json``, ``versions.json``. Parts that are not there are left out.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "envs")]

from shortcut_policy.paths import write_atomic  # noqa: E402
from shortcut_policy.provenance import commit, library_versions  # noqa: E402
from tests.campaign.faults import kind_of  # noqa: E402

RESULTS = ROOT / "results/campaign"


def main() -> None:
    """Write the parts of a place, and the summary of all."""
    settings = dict(part.split("=", 1) for part in sys.argv[1:])
    if "place" in settings:
        place, batch = Path(settings["place"]), settings.get("batch", "1")
        put("kills", batch, kills(records(place.glob("kills*.jsonl"))))
        tried = faults(records(place.glob("faults*.jsonl")), records(place.glob("places*.jsonl")))
        put("faults", batch, {**tried, "there": there(place.glob("reference/*.trace"))})
    parts = {name: read(name) for name in ("kills", "faults", "fuzz", "load", "versions")}
    summary: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
    if "versions" in summary:
        summary["versions"] = by_package(summary["versions"]["rows"])
    write_atomic(RESULTS / "results.json", json.dumps(summary, indent=2) + "\n")


def by_package(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each package of each environment: how many tests passed and failed with this version."""
    return [
        {
            "python": row["row"].split("-")[0],
            "package": package,
            "version": version,
            **{key: row.get(key) for key in ("passed", "failed", "row", "commit")},
        }
        for row in rows
        for package, version in row.get("versions", {}).items()
    ]


def kills(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """How many kills there were and after how many something was lost, in all and by command."""
    by_command: dict[str, dict[str, int]] = defaultdict(lambda: {"tried": 0, "lost": 0})
    for one in tried:
        mine = by_command[one["scenario"]]
        mine["tried"] += len(one["kills"])
        mine["lost"] += bool(one["lost"])
    at_writes = sum(bool(kill["hit"]) for one in tried for kill in one["kills"])
    whole_groups = sum(kill["group"] for one in tried for kill in one["kills"])
    totals = {key: sum(one[key] for one in by_command.values()) for key in ("tried", "lost")}
    return {**totals, "at_writes": at_writes, "whole_groups": whole_groups, "commands": dict(by_command)}


def faults(tried: list[dict[str, Any]], places: list[dict[str, Any]]) -> dict[str, Any]:
    """How many operations failed, how the commands ended, and what was wrong."""
    by_command: dict[str, dict[str, int]] = defaultdict(
        lambda: {"tried": 0, "sentence": 0, "tolerated": 0, "wrong": 0, "places": 0, "places_wrong": 0}
    )
    for one in tried:
        mine = by_command[one["scenario"]]
        mine["tried"] += 1
        mine["sentence"] += one["said"].startswith("error: ")
        mine["tolerated"] += one["said"] == "tolerated"
        mine["wrong"] += bool(one["wrong"])
    for one in places:
        by_command[one["scenario"]]["places"] += 1
        by_command[one["scenario"]]["places_wrong"] += bool(one["wrong"])
    keys = ("tried", "sentence", "tolerated", "wrong", "places", "places_wrong")
    totals = {key: sum(one[key] for one in by_command.values()) for key in keys}
    return {**totals, "commands": dict(by_command)}


def there(traces: Iterable[Path]) -> dict[str, int]:
    """How many operations the undisturbed commands of a place have, and of how many kinds they are."""
    kinds = [
        [kind_of(line.split(" ", 1)[1]) for line in file.read_text("utf-8").splitlines()] for file in traces
    ]
    return {
        "commands": len(kinds),
        "operations": sum(map(len, kinds)),
        "kinds": sum(len(set(one)) for one in kinds),
    }


def records(files: Iterable[Path]) -> list[dict[str, Any]]:
    """All lines of the files."""
    return [json.loads(line) for file in sorted(files) for line in file.read_text("utf-8").splitlines()]


def put(name: str, batch: str, part: dict[str, Any]) -> None:
    """Write a batch of a part, if anything was tried, and the sums of all batches."""
    if not part["tried"] and not part.get("places"):
        return
    command = f"python tests/campaign/summary.py place=PLACE batch={batch}"
    about = {"command": command, "commit": commit(), "library_versions": library_versions()}
    batches = {**(read(name) or {"batches": {}})["batches"], batch: {**part, **about}}
    text = json.dumps({**added(batches), "batches": batches}, indent=2)
    write_atomic(RESULTS / f"{name}.json", text + "\n")


def added(batches: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sums of the counts of all batches, in all and by command."""
    totals: dict[str, Any] = defaultdict(int)
    commands: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for batch in batches.values():
        for key, value in batch.items():
            if isinstance(value, int):
                totals[key] += value
        for command, counts in batch["commands"].items():
            for key, value in counts.items():
                commands[command][key] += value
    return {**totals, "commands": commands}


def read(name: str) -> Any:
    """A part; None if it is not there."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


if __name__ == "__main__":
    main()
