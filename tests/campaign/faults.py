"""Lets each operation of a command on its files fail once, in turn, and looks at what it says and leaves.

    python tests/campaign/faults.py place=/tmp/campaign minutes=30

An open for writing, a write, a rename, a flush to the disk, a new folder, a removal: the n-th one fails, as
the system lets it fail (no space, a broken disk, a disk that was mounted read-only). The command is to end
with one sentence and a status other than 0, or to come to the undisturbed result all the same; nothing
half-written may lie under its final name; and given again, with nothing in its way, the command comes to
the undisturbed result.

Operations on files of one kind come once first, then all others, as far as the minutes go. What has been
tried is kept in ``<place>/faults.jsonl``, and a campaign that is given again goes on behind it. In a new
place ``behind=results/campaign/faults.json`` leaves out as many of each command as are published.
``places=true`` tries a full disk, a folder that cannot be written to and one that vanishes instead (as
root, for the disk).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.campaign.base import Campaign, Scenario, clean_environment, differences, scenarios
from tests.campaign.scenarios import contents

ERRORS = {
    "open": ("ENOSPC", "EROFS", "EIO"),
    "write": ("ENOSPC", "EIO"),
    "truncate": ("ENOSPC", "EIO"),
    "mkdir": ("ENOSPC", "EROFS"),
    "rename": ("EIO", "EROFS", "ENOSPC"),
    "fsync": ("EIO",),
    "unlink": ("EIO", "EROFS"),
    "rmdir": ("EIO",),
    "chmod": ("EIO", "EROFS"),
}
#: Bytes by which a file takes room.
PAGE = 4096


def main() -> None:
    """Try what has not been tried, until the time is over."""
    settings = dict(part.split("=", 1) for part in sys.argv[1:])
    place, minutes = Path(settings.get("place", "/tmp/campaign")), float(settings.get("minutes", 30))
    names = [name for name in settings.get("only", "").split(",") if name]
    clean_environment()
    campaign = Campaign(place)
    results = place / settings.get("results", "faults.jsonl")
    end = time.monotonic() + 60 * minutes
    if "places" in settings:
        for scenario in scenarios(names):
            for record in places(campaign, scenario):
                note(results.with_name("places.jsonl"), record)
        return
    lines = results.read_text().splitlines() if results.exists() else []
    done = {(one["scenario"], one["at"]) for one in map(json.loads, lines)}
    left_out = published(Path(settings["behind"])) if "behind" in settings else {}
    for scenario, at in in_order(campaign, scenarios(names)):
        left_out[scenario.name] = left_out.get(scenario.name, 0) - 1
        if left_out[scenario.name] >= 0 or (scenario.name, at) in done:
            continue
        if time.monotonic() > end:
            break
        note(results, attempt(campaign, scenario, at))
    campaign.launcher.close()


def published(file: Path) -> dict[str, int]:
    """Operations of each command that were tried in its largest batch: each batch begins with the first."""
    tried: dict[str, int] = {}
    for batch in json.loads(file.read_text("utf-8"))["batches"].values():
        for name, counts in batch["commands"].items():
            tried[name] = max(tried.get(name, 0), counts["tried"])
    return tried


def note(file: Path, record: dict[str, Any]) -> None:
    """Keep a record, and show what is wrong."""
    with file.open("a") as opened:
        opened.write(json.dumps(record) + "\n")
    print(record["scenario"], record["at"], record["hit"], record["said"], record["wrong"] or "", flush=True)


def in_order(campaign: Campaign, chosen: list[Scenario]) -> Iterator[tuple[Scenario, int]]:
    """Operations by number: one of each kind, then the others; the commands take turns."""
    rounds: dict[int, list[tuple[int, int, Scenario]]] = {}
    for scenario in chosen:
        kept, _, _ = campaign.reference(scenario)
        seen: dict[str, int] = {}
        for line in kept.with_suffix(".trace").read_text().splitlines():
            number, what = line.split(" ", 1)
            kind = kind_of(what)
            seen[kind] = seen.get(kind, 0) + 1
            mine = rounds.setdefault(seen[kind], [])
            mine.append((sum(one[2] is scenario for one in mine), int(number), scenario))
    for times in sorted(rounds):
        for _, number, scenario in sorted(rounds[times], key=lambda one: one[0]):
            yield scenario, number


def kind_of(operation: str) -> str:
    """An operation and its file, without what differs among files of one kind."""
    return re.sub(r"[0-9a-f]{8,}|\.tmp\w{6}|\d+", "#", operation)


def attempt(campaign: Campaign, scenario: Scenario, at: int) -> dict[str, Any]:
    """One operation fails; then the command again."""
    reference, wanted, _ = campaign.reference(scenario)
    trace = (reference.with_suffix(".trace")).read_text().splitlines()
    errors = ERRORS[trace[at - 1].split(" ")[1]]
    error = errors[at % len(errors)]
    work = campaign.fresh(scenario)
    outcome = campaign.run(scenario, mode="fail", at=at, error=error)
    record = {"scenario": scenario.name, "at": at, "error": error, "hit": outcome.hit}
    return record | judged(campaign, scenario, work, reference, wanted, outcome.status, bool(outcome.hit))


def judged(
    campaign: Campaign,
    scenario: Scenario,
    work: Path,
    reference: Path,
    wanted: dict[str, str],
    status: int | None,
    hit: bool,
    again: bool = True,
) -> dict[str, Any]:
    """What a command that was disturbed has said and left, and what becomes of it when it is given again."""
    text, wrong = campaign.log_of(scenario).read_text(errors="replace"), []
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    if "Traceback" in text or "Exception ignored" in text:
        wrong.append("traceback: " + " | ".join(lines[-3:])[-400:])
    if said.startswith("error: a file cannot be used"):
        wrong.append("the sentence names no file")
    if status is None or status < 0:
        wrong.append(f"ended with {status}")
    elif status != 0 and not said:
        wrong.append(f"status {status} without a sentence: " + " | ".join(lines[-2:])[-300:])
    elif status == 0 and hit:
        said = "tolerated"
        if missing := [one for one in differences(wanted, contents(work)) if not one.startswith("left over")]:
            wrong.append(f"status 0, but {missing[:4]}")
    try:
        if scenario.whole and work.exists():
            scenario.whole(work, reference)
    except Exception as error:
        wrong.append(f"half there: {type(error).__name__}: {error}")
    if again:
        wrong += repeated(campaign, scenario, work, wanted)
    return {"status": status, "said": said[:300], "wrong": wrong}


def repeated(campaign: Campaign, scenario: Scenario, work: Path, wanted: dict[str, str]) -> list[str]:
    """What is wrong when the command is given again."""
    outcome = campaign.run(scenario, again=True)
    text = campaign.log_of(scenario).read_text(errors="replace")
    if outcome.status != 0 and "is there already" not in text:
        return [f"again: status {outcome.status}: {text[-300:]}"]
    return [f"again: {one}" for one in differences(wanted, contents(work))][:5]


def places(campaign: Campaign, scenario: Scenario) -> Iterator[dict[str, Any]]:
    """A disk that is full early, in the middle and late; a folder that is read-only; one that vanishes."""
    reference, wanted, usual = campaign.reference(scenario)
    # Of small files each takes a page: by their bytes alone, no disk would be full late.
    pages = sum(-(-file.stat().st_size // PAGE) for file in reference.rglob("*") if file.is_file())
    for share in (0.02, 0.4, 0.9):
        size = PAGE * max(1, int(pages * share))
        yield on_a_disk(campaign, scenario, f"a disk of {share:.0%}", f"size={size}", "size=1g")
    yield on_a_disk(campaign, scenario, "a read-only folder", "ro", "rw")
    for share in (0.1, 0.5, 0.9):
        work = campaign.fresh(scenario)
        at = max(1, int(usual.operations * share))
        outcome = campaign.run(scenario, mode="vanish", at=at)
        gone = work.with_name(f"{work.name}.gone")
        # What was begun in the vanished folder and what was made anew under its name are two.
        record = judged(campaign, scenario, work, reference, wanted, outcome.status, True, again=False)
        record["wrong"] = [one for one in record["wrong"] if not one.startswith("status 0, but")]
        if gone.exists():
            shutil.rmtree(work, ignore_errors=True)
            os.rename(gone, work)
            record["wrong"] += repeated(campaign, scenario, work, wanted)
        yield {"scenario": scenario.name, "at": at, "hit": "a folder that vanishes", **record}


def on_a_disk(campaign: Campaign, scenario: Scenario, name: str, bad: str, good: str) -> dict[str, Any]:
    """The command on a disk that was mounted with the options ``bad``, and again after they are ``good``."""
    reference, wanted, _ = campaign.reference(scenario)
    work = campaign.fresh(scenario)
    subprocess.run(["mount", "-t", "tmpfs", "-o", bad, "tmpfs", str(work)], check=True)
    try:
        outcome = campaign.run(scenario)
        # Looking at what it left takes room, too.
        subprocess.run(["mount", "-o", f"remount,{good}", str(work)], check=True)
        record = judged(campaign, scenario, work, reference, wanted, outcome.status, True, again=False)
        record["wrong"] += repeated(campaign, scenario, work, wanted)
    finally:
        subprocess.run(["umount", "-l", str(work)], check=True)
    return {"scenario": scenario.name, "at": 0, "hit": name, **record}


if __name__ == "__main__":
    main()
