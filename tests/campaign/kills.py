"""Kills commands at random moments, gives them again, and looks at what has become of their results.

    python tests/campaign/kills.py place=/tmp/campaign kills=200
    python tests/campaign/kills.py place=/tmp/campaign only=export,view each=8

``kills`` are shared among all scenarios, of which ``only`` chooses some; ``each`` gives each of them as many.
The moments are drawn from the seed: half of them anywhere in the time that a command takes, half of them at
one of its operations on files, before it, in the middle of a write, or right after it. What has been tried is
kept in ``<place>/kills.jsonl``, and a campaign that is given again goes on behind it.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.campaign.base import Campaign, Scenario, clean_environment, differences, scenarios
from tests.campaign.scenarios import contents

#: Kills of each scenario, of two hundred; most where many files are written, or few for what takes long.
SHARES = {
    "train": 40,
    "train of images": 8,
    "collect": 28,
    "collect with workers": 3,
    "collect to HDF5": 22,
    "render": 8,
    "rollout": 8,
    "rollout in processes": 1,
    "benchmark": 4,
    "download": 8,
    "download of a folder": 8,
    "export": 2,
    "import": 8,
    "record": 10,
    "record to HDF5": 19,
    "view": 1,
    "view as a page": 1,
    "view in Rerun": 1,
}
USUAL = 4


def main() -> None:
    """Go on until each scenario has its kills."""
    settings = dict(part.split("=", 1) for part in sys.argv[1:])
    place, total = Path(settings.get("place", "/tmp/campaign")), int(settings.get("kills", 200))
    seed, names = int(settings.get("seed", 0)), [name for name in settings.get("only", "").split(",") if name]
    each = int(settings.get("each", 0))
    clean_environment()
    campaign = Campaign(place)
    results = place / settings.get("results", "kills.jsonl")
    lines = results.read_text().splitlines() if results.exists() else []
    done = [json.loads(line) for line in lines]
    everything = sum(SHARES.get(scenario.name, USUAL) for scenario in scenarios([]))
    for scenario in scenarios(names):
        wanted = each or round(SHARES.get(scenario.name, USUAL) * total / everything)
        mine = [one for one in done if one["scenario"] == scenario.name]
        tried, trial = sum(len(one["kills"]) for one in mine), len(mine)
        while tried < wanted:
            draw = random.Random(f"{seed} {scenario.name} {trial}")
            record = attempt(campaign, scenario, draw, wanted - tried)
            tried, trial = tried + len(record["kills"]), trial + 1
            with results.open("a") as file:
                file.write(json.dumps({"scenario": scenario.name, "trial": trial - 1, **record}) + "\n")
            said = record["lost"] or "nothing lost"
            print(f"{scenario.name} {trial - 1}: {len(record['kills'])} kills, {said}", flush=True)
            if trial > 20 * wanted:
                raise RuntimeError(f"{scenario.name} cannot be hit")
    campaign.launcher.close()


def attempt(campaign: Campaign, scenario: Scenario, draw: random.Random, most: int) -> dict[str, Any]:
    """One command, killed up to three times in a row and then left in peace."""
    reference, wanted, usual = campaign.reference(scenario)
    work = campaign.fresh(scenario)
    kills: list[dict[str, Any]] = []
    lost: list[str] = []
    progress, again = 0, False
    for _ in range(min(most, draw.choice((1, 1, 1, 2, 2, 3)))):
        how: dict[str, Any] = {"group": draw.random() < 0.7}
        if draw.random() < 0.5:
            how["cpu_seconds"] = draw.uniform(0, usual.cpu_seconds)
        else:
            how |= {"mode": draw.choice(("kill before", "kill half", "kill after"))}
            how["at"] = draw.randint(1, usual.operations)
        outcome = campaign.run(scenario, again=again, **how)
        again = True
        if outcome.left:
            lost.append("workers lived on")
        if outcome.status != -9:
            text = campaign.log_of(scenario).read_text()
            if outcome.status != 0 and "is there already" not in text:
                lost.append(f"ended with {outcome.status}: {campaign.log_of(scenario).read_text()[-500:]}")
            break
        kills.append({**how, "hit": outcome.hit, "seconds": outcome.seconds})
        try:
            now = scenario.whole(work, reference) if scenario.whole else 0
            if now < progress:
                lost.append(f"{progress} were there, {now} are")
            progress = now
        except Exception as error:
            lost.append(f"after a kill: {type(error).__name__}: {error}")
    started = time.perf_counter()
    outcome = campaign.run(scenario, again=again)
    text = campaign.log_of(scenario).read_text()
    if outcome.status != 0 and "is there already" not in text:
        lost.append(f"again: ended with {outcome.status}: {campaign.log_of(scenario).read_text()[-500:]}")
    else:
        lost += differences(wanted, contents(work))
    return {"kills": kills, "lost": lost, "again_seconds": round(time.perf_counter() - started, 2)}


if __name__ == "__main__":
    main()
