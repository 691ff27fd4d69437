"""What the parts of the campaign share: inputs, a server of files, undisturbed runs to compare with."""

import contextlib
import http.server
import json
import os
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaign.launcher import Launcher, Outcome, Request
from tests.campaign.scenarios import SCENARIOS, Scenario, arguments_of, contents, make_inputs

CLONE = Path(__file__).resolve().parents[2]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files, too, as the servers of published data do; slowly enough to be killed in."""

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        data, start = file.read_bytes(), 0
        wanted = self.headers.get("Range")
        if wanted:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data[start:])

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Campaign:
    """A place with inputs, the launcher, and the undisturbed result of each scenario."""

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()
        self.inputs, self.work = self.place / "inputs", self.place / "work"
        self.place.mkdir(parents=True, exist_ok=True)
        make_inputs(self.inputs)
        self.launcher = Launcher(self.place / f"launcher_{os.getpid()}", CLONE)
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Handler, directory=str(self.inputs))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.server = f"http://127.0.0.1:{server.server_port}"

    def run(
        self, scenario: Scenario, *, again: bool = False, work: Path | None = None, **how: Any
    ) -> Outcome:
        """Give the command in the scenario's folder."""
        work = work or self.work_of(scenario)
        work.mkdir(parents=True, exist_ok=True)
        temporary = self.place / "tmp" / work.name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        env = {
            "SHORTCUT_POLICY_CACHE": str(work / "cache"),
            "SHORTCUT_POLICY_DATA": str(work / "data"),
            "TMPDIR": str(temporary),
            **scenario.env,
        }
        arguments = arguments_of(scenario, self.inputs, self.server, again)
        log = self.log_of(scenario)
        log.write_text("")
        return self.launcher.run(Request(scenario.command, arguments, str(work), str(log), env, **how))

    def work_of(self, scenario: Scenario) -> Path:
        """Where a scenario runs: the same place each time, for it is in some of the results."""
        return self.work / scenario.name.replace(" ", "_")

    def log_of(self, scenario: Scenario) -> Path:
        """What the last command printed."""
        return self.place / f"{scenario.name.replace(' ', '_')}.log"

    def fresh(self, scenario: Scenario) -> Path:
        """An empty folder for it."""
        work = self.work_of(scenario)
        for path in (work, work.with_name(f"{work.name}.gone")):
            shutil.rmtree(path, ignore_errors=True)
        work.mkdir(parents=True)
        return work

    def reference(self, scenario: Scenario) -> tuple[Path, dict[str, str], Outcome]:
        """The undisturbed result: where a copy of it is, what it comes to, how long it took."""
        kept = self.place / "reference" / scenario.name.replace(" ", "_")
        about = kept.with_suffix(".json")
        if about.exists():
            known = json.loads(about.read_text())
            return kept, known["contents"], Outcome(**known["outcome"])
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        work = self.fresh(scenario)
        outcome = self.run(scenario, trace=str(kept.with_suffix(".trace")))
        if outcome.status != 0:
            raise RuntimeError(
                f"{scenario.name} ends with {outcome.status}:\n{self.log_of(scenario).read_text()[-1500:]}"
            )
        found = contents(work)
        shutil.copytree(work, kept)
        about.write_text(json.dumps({"contents": found, "outcome": outcome.__dict__}))
        return kept, found, outcome


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Files that are missing, other or too many."""
    lines = [f"missing: {name}" for name in wanted if name not in found]
    lines += [f"differs: {name}" for name in wanted if name in found and found[name] != wanted[name]]
    return lines + [f"left over: {name}" for name in found if name not in wanted]


def scenarios(names: list[str]) -> list[Scenario]:
    """Those of the names; all without any."""
    return [scenario for scenario in SCENARIOS if not names or scenario.name in names]


def clean_environment() -> None:
    """Settings of whoever starts the campaign that would change its commands."""
    for name in ("SHORTCUT_POLICY_CACHE", "SHORTCUT_POLICY_DATA", "WANDB_MODE"):
        os.environ.pop(name, None)
