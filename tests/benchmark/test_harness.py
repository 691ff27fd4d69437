import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

from shortcut_policy import provenance, save_policy
from shortcut_policy.benchmark import harness, outputs, plots, result_files
from shortcut_policy.benchmark.result_files import origin, read_published
from shortcut_policy.benchmark.table import results_table
from shortcut_policy.benchmark.text_table import TextTable, place_in, write_into
from shortcut_policy.benchmark.training_runs import all_checkpoints
from shortcut_policy.commands import benchmark, cli, train
from shortcut_policy.commands.rollout import run as roll_out
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.recipes import recipe
from shortcut_policy.rollout.evaluate import EvaluationProtocol
from tests.conftest import TINY, with_objective

REQUIRED = {
    *("method", "backbone", "task", "dataset", "steps", "nfe", "seeds", "episodes", "score", "score_ci"),
    *("success", "success_ci", "latency_ms_p50", "latency_ms_p95", "train_steps", "commit", "command"),
    *("checkpoint_rule", "device", "score_peak", "score_difference", "score_p_value"),
    *("success_difference", "success_p_value", "train_seconds", "success_p_adjusted", "p_method"),
    *("success_difference_ci", "reference_checkpoint_rule", "own", "own_success_p_adjusted"),
}


ROOT = Path(__file__).parents[2]
CURVES = ("curve_checkpoints=2", "curve_steps=[1]", "compute_rounds=1", "baseline=diffusion")


def configuration(name, *overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose(name, overrides=list(overrides))


@pytest.fixture(scope="module")
def runs(untrained_policy, tmp_path_factory):
    """A shortcut run with two checkpoints and a log, and a diffusion checkpoint of its own."""
    folder = tmp_path_factory.mktemp("runs")
    for step in (10, 20):
        checkpoint = folder / f"shortcut/checkpoints/step_{step:08d}"
        save_copy(untrained_policy, checkpoint, recipe("objective", "shortcut"), train_steps=step)
    records = [{"kind": kind, "step": s, "loss": 1 / s} for s in (10, 20) for kind in ("train", "validation")]
    (folder / "shortcut/log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    diffusion = {"_target_": "shortcut_policy.objectives.Diffusion"}
    save_copy(untrained_policy, folder / "diffusion", diffusion, method="diffusion")
    return folder


def save_copy(policy, folder, objective=None, **metadata):
    """Save a policy with the same weights, another objective and other metadata."""
    copy = with_objective(policy, objective or policy.spec["objective"])
    copy.metadata = {**policy.metadata, "train_steps": 20, **metadata}
    save_policy(copy, folder)


def short(runs, output, *overrides):
    entries = (
        f"entries=[{{name: shortcut, runs: ['{runs}/shortcut'], steps: [1, 2]}},"
        f"{{name: diffusion, checkpoint: '{runs}/diffusion', steps: [1, 3]}}]"
    )
    protocol = ["episodes=3", "num_envs=3", "batch_size=3", "+env.max_steps=16"]
    return configuration("benchmark", entries, *protocol, f"output='{output}'", *overrides)


@pytest.fixture(scope="module")
def results(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    (output / "README.md").write_text("above\n<!-- results:pusht -->\nyesterday\n<!-- /results -->\nbelow\n")
    places = [f"readme='{output}/README.md'", f"publish='{output}/published'"]
    benchmark.run(short(runs, output, "last_k=1", "videos=2", *places, *CURVES))
    return output


def test_rows_hold_what_a_reader_needs(results):
    rows = json.loads((results / "results.json").read_text())
    assert [(row["name"], row["steps"], row["nfe"]) for row in rows] == [
        ("shortcut", 1, 1),
        ("shortcut", 2, 2),
        ("diffusion", 1, 1),
        ("diffusion", 3, 3),
    ]
    for row in rows:
        assert row.keys() >= REQUIRED
        assert row["score_ci"][0] <= row["score"] <= row["score_ci"][1]
        assert row["success_ci"][0] <= row["success"] <= row["success_ci"][1]
        assert (row["episodes"], row["seeds"], row["checkpoint_rule"]) == (3, 1, "last checkpoint")
    assert [row["reference"] for row in rows] == ["diffusion, 3 steps"] * 3 + [None]
    difference = rows[0]["score"] - rows[3]["score"]
    assert rows[0]["score_difference"] == pytest.approx(difference)
    assert [row["baseline"] for row in rows] == ["diffusion, 1 step", None, None, None]
    assert rows[0]["baseline_score_difference"] == pytest.approx(rows[0]["score"] - rows[2]["score"])
    assert rows[1]["baseline_success_difference"] is None
    assert rows[0]["score_p_value"] is rows[0]["score_p_adjusted"] is None, "one training: no test"
    assert rows[1]["own"] == "shortcut, 1 step"


def test_curves_set_scores_against_training_compute(results):
    rows = json.loads((results / "curves.json").read_text())
    points = [(row["name"], row["steps"], row["train_steps"]) for row in rows]
    assert points == [("shortcut", 1, 10), ("shortcut", 1, 20), ("diffusion", 1, 20)]
    half, whole, diffusion = (row["train_flops"] for row in rows)
    compute = {row["name"]: row for row in json.loads((results / "compute.json").read_text())}
    assert whole == pytest.approx(20 * compute["shortcut"]["flops"])
    # The first half of the updates has no self-consistency rows and costs as much as a diffusion's.
    assert 0.2 * whole < half < 0.25 * whole
    assert half == pytest.approx(diffusion / 2)
    assert whole / diffusion == pytest.approx(compute["shortcut"]["relative_flops"])


def test_report_needs_no_other_file(results):
    page = (results / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page), "no external resources"
    for source in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert source.startswith(("data:", "#")), source[:80]
    assert page.count("<svg") == 4, "steps, latency, compute and losses"
    assert page.count("<h2>Training compute</h2>") == 1
    assert "data:video/mp4;base64," in page
    assert "diffusion, 3 steps" in page
    assert (results / "shortcut_1_step.mp4").stat().st_size > 1000


def test_report_explains_itself_and_shows_no_empty_column(results):
    page = (results / "report.html").read_text()
    summary = re.search(r'<p class="summary">(.*?)</p>', page)[1]
    assert len(re.findall(r"\.( |$)", summary)) == 4, "four sentences"
    assert "With 1 step, shortcut reaches a score of" in summary
    for table in re.findall(r"<table>(.*?)</table>", page, flags=re.S):
        lines = [re.findall(r"<td>(.*?)</td>", line) for line in table.split("<tr")]
        assert all(set(column) - {"", "–"} for column in zip(*filter(None, lines), strict=True))


def test_the_table_goes_into_the_readme_and_nothing_else_changes(results):
    text = (results / "README.md").read_text()
    assert text.startswith("above\n<!-- results:pusht -->\n| method |")
    assert text.endswith("\n<!-- /results -->\nbelow\n")
    assert "yesterday" not in text
    assert (results / "results.md").read_text().strip() in text


def test_rows_table_and_figures_are_published(results):
    published = {file.name: file for file in (results / "published").iterdir() if file.is_file()}
    texts = {"results.json", "results.md", "compute.json", "compute.md", "curves.json"}
    assert texts | {"steps.png", "latency.png", "losses.png", "compute.png"} == published.keys()
    assert all(file.read_bytes() == (results / name).read_bytes() for name, file in published.items())


@pytest.mark.slow
def test_published_results_stand_for_folders_that_are_gone(results, tmp_path, capsys):
    source = f"published: '{results}/published'"
    entries = f"[{{name: shortcut, steps: [1, 2], {source}}}, {{name: diffusion, steps: [1, 3], {source}}}]"
    places = ["videos=2", f"publish='{tmp_path}/again'"]
    benchmark.run(short("nowhere", tmp_path, f"entries={entries}", *places, *CURVES))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"shortcut, seed 0: published in {results}/published/cells/shortcut.jsonl, trained at commit " in said
    )
    assert f" on {datetime.now(UTC).date()}, by this code and these versions " in said
    before, after = (json.loads((folder / "results.json").read_text()) for folder in (results, tmp_path))
    for old, new in zip(before, after, strict=True):
        assert {key for key in old if old[key] != new[key]} <= {"latency_ms_p50", "latency_ms_p95"}
    for name in ("shortcut", "diffusion"):
        file = f"cells/{name}.jsonl"
        assert (tmp_path / "again" / file).read_text() == (results / "published" / file).read_text()
    assert (tmp_path / "curves.json").read_text() == (results / "curves.json").read_text()
    assert (tmp_path / "losses.png").is_file()


def test_tables_are_made_again_without_measuring(results, tmp_path, monkeypatch):
    for name in ("latencies_in_turns", "phase_costs", "compute_rows"):
        monkeypatch.setattr(harness, name, None)
    published = results / "published"
    source = f"published: '{published}'"
    entries = f"[{{name: shortcut, steps: [1, 2], {source}}}, {{name: diffusion, steps: [1, 3], {source}}}]"
    again = (f"entries={entries}", "measure=false", f"published='{published}'", *CURVES)
    benchmark.run(short("nowhere", tmp_path / "out", *again))
    for name in ("compute.json", "curves.json", "results.md", "compute.md"):
        assert (tmp_path / "out" / name).read_bytes() == (published / name).read_bytes()
    rows = [json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "out", published)]
    assert all(row.pop("command") and row.pop("commit") for both in rows for row in both)
    assert rows[0] == rows[1]
    with pytest.raises(InputError, match=r"measure=false takes latencies from published results: name"):
        benchmark.run(short("nowhere", tmp_path / "none", f"entries={entries}", "measure=false"))
    kept = json.loads((published / "results.json").read_text())[:3]
    (tmp_path / "cells").mkdir()
    (tmp_path / "results.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match=r"results\.json has no latency of diffusion, 3 steps"):
        benchmark.run(short("nowhere", tmp_path / "none", *again, f"published='{tmp_path}'"))


def test_published_results_of_other_code_are_said_and_of_another_policy_refused(
    results, tmp_path, monkeypatch
):
    cells = results / "published" / "cells" / "shortcut.jsonl"
    (run,) = read_published(cells)
    assert origin(run).endswith("by this code and these versions")
    monkeypatch.setattr(result_files, "own_code", lambda: "another")
    here = {**provenance.library_versions(), "torch": "1.0"}
    monkeypatch.setattr(result_files, "library_versions", lambda: here)
    assert re.search(
        r"; evaluated at .*by other code of this library than here; torch \S+ \(here 1\.0\)$", origin(run)
    )
    for cell in run.cells.values():
        cell.summary["settings"].pop("code")
    assert "an earlier version of this library, which noted neither code nor versions" in origin(run)

    def changed(text, sentence):
        (tmp_path / "cells").mkdir(exist_ok=True)
        (tmp_path / "cells" / "shortcut.jsonl").write_text(text)
        entries = f"entries=[{{name: shortcut, steps: [1], published: '{tmp_path}'}}]"
        with pytest.raises(InputError, match=sentence):
            benchmark.run(short("nowhere", tmp_path / "out", entries))

    text = cells.read_text()
    changed(text.replace('"n_action_steps": 8', '"n_action_steps": 4'), "describes another policy than was")
    foreign = "shortcut_policy_of_others.objectives.Shortcut"
    changed(text.replace("shortcut_policy.objectives.Shortcut", foreign), r"shortcut\.jsonl names .*trust=\[")


def test_published_results_that_do_not_fit_are_refused(results, tmp_path):
    def refuse(sentence, *overrides, name="shortcut", steps=1, folder=results / "published"):
        entries = f"entries=[{{name: {name}, steps: [{steps}], published: '{folder}'}}]"
        with pytest.raises(InputError, match=sentence):
            benchmark.run(short("nowhere", tmp_path / "out", entries, *overrides))

    refuse("was evaluated with episodes=3, not 4", "episodes=4")
    refuse("was evaluated with env=", "env.max_steps=8")
    refuse("no evaluation of step_00000020, seed 0, at steps=4, only at \\[1, 2\\]", steps=4)
    refuse("no evaluation of step_00000010", "last_k=2", steps=2)
    refuse("flow.jsonl cannot be read \\(FileNotFoundError", name="flow")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "shortcut.jsonl").write_text('{"kind": "cell"}\n')
    refuse("cannot be read \\(KeyError", folder=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_published_results_spare_a_training(demonstrations, tmp_path, monkeypatch):
    tiny = ",".join(f"'{override}'" for override in ("task=pusht_human", *TINY, "trainer.max_steps=1"))
    # An objective of the user's own: the training names it, and its checkpoints and results may do so, too.
    source = "from shortcut_policy.objectives import FlowMatching\nclass Flow(FlowMatching):\n    pass\n"
    (tmp_path / "methods_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    flow = "'objective=flow_matching','objective._target_=methods_of_mine.Flow'"

    def run(output, *overrides):
        entries = f"entries=[{{name: flow matching, steps: [1], overrides: [{flow}]}}]"
        places = [f"training=[{tiny},'task.source.path={demonstrations}']", f"publish='{tmp_path}/published'"]
        benchmark.run(short("nowhere", tmp_path / output, entries, *places, *overrides))
        return json.loads((tmp_path / output / "results.json").read_text())

    (trained,) = run("here")
    trains = train.train
    monkeypatch.setattr(train, "train", None)
    published = f"published='{tmp_path}/published'"
    # The demonstrations may be elsewhere on another machine, and its arithmetic another.
    machine = "'task.source.path=/elsewhere.zarr','trainer.precision=bf16','trainer.cuda_graph=false'"
    elsewhere = f"training=[{tiny},{machine}]"
    (row,) = run("there", published, elsewhere)
    assert (row["score"], row["train_seconds"]) == (trained["score"], trained["train_seconds"])
    changed = elsewhere.replace("max_steps=1'", "max_steps=2'")
    with pytest.raises(InputError, match=r"trained with trainer.max_steps=1, not 2: remove the file"):
        run("there", published, changed)
    assert str(tmp_path) not in (tmp_path / "published/cells/flow_matching.jsonl").read_text()
    more = (
        f"entries=[{{name: flow matching, steps: [1], overrides: [{flow}], seeds: [0, 1]}},"
        "{name: diffusion, steps: [1], overrides: ['objective=diffusion']}]"
    )
    (row,) = run("part", published, elsewhere, more, "trained_only=true")
    assert (row["name"], row["seeds"], row["score"]) == ("flow matching", 1, trained["score"])
    with pytest.raises(InputError, match="trained_only=true leaves nothing to compare"):
        run("none", more, "trained_only=true")
    assert not (tmp_path / "none").exists()
    foreign = f"entries=[{{name: flow matching, steps: [1], published: '{tmp_path}/published'}}]"
    with pytest.raises(InputError, match=r"flow_matching\.jsonl names .*trust=\[methods_of_mine\]"):
        run("foreign", foreign)
    # A finished run is gone on with, which finds out that nothing is left.
    monkeypatch.setattr(train, "train", trains)
    (row,) = run("here", more, "trained_only=true")
    assert (row["name"], row["seeds"]) == ("flow matching", 1)


@pytest.mark.slow
def test_finished_evaluations_are_taken_as_they_are(runs, results):
    files = sorted(results.glob("cells/**/summary.json"))
    assert len(files) == 5, "a curve has a point at an earlier checkpoint"
    before = [file.stat().st_mtime_ns for file in files]
    benchmark.run(short(runs, results, "videos=2", *CURVES))
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.slow
def test_means_over_checkpoints_name_their_rule_and_the_peak(runs, tmp_path):
    other = tmp_path / "other_seed"
    shutil.copytree(runs / "shortcut", other)
    folders = f"['{runs}/shortcut', '{other}']"
    entries = f"entries=[{{name: shortcut, runs: {folders}, steps: [1, 2], newest_only: [2]}}]"
    benchmark.run(short(runs, tmp_path, entries, "last_k=2"))
    row, last = json.loads((tmp_path / "results.json").read_text())
    assert last["checkpoint_rule"] == "last checkpoint"
    assert "last checkpoint for shortcut, 2 steps" in (tmp_path / "results.md").read_text()
    assert (row["checkpoint_rule"], row["seeds"]) == ("mean of the last 2 checkpoints", 2)
    # Both checkpoints and both seeds are the same weights here.
    assert row["score_peak"] == pytest.approx(row["score"])
    assert row["reference"] is None
    assert "−" not in (tmp_path / "results.md").read_text()
    assert len(list(tmp_path.glob("cells/**/summary.json"))) == 6


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("[]", "has no entries"),
        ("[{name: a, steps: [1]}]", "'a' must have exactly one of checkpoint, runs, overrides, published"),
        ("[{name: a, steps: [1], checkpoint: x, runs: [y]}]", "'a' must have exactly one"),
        ("[{name: a, steps: [], checkpoint: x}]", r"'a' has steps=\[\]: give one or more"),
        ("[{name: a, steps: 1, checkpoint: x}]", "'a': steps=1 must be a list of whole numbers"),
        ("[{name: a, steps: [auto], checkpoint: x}]", r"'a': steps=\['auto'\] must be a list"),
        ("[{name: a, steps: [1], seeds: 0, checkpoint: x}]", "'a': seeds=0 must be a list"),
        ("[{name: a, steps: [1], runs: x}]", "'a': runs=x must be a list of texts"),
        ("[{name: a, steps: [1], overrides: ['objektive=x']}]", "overrides .* are not of a training"),
        ("[{name: a, steps: [4], overrides: ['objective=regression']}]", "steps=4 cannot be sampled"),
        ("[{name: a, steps: [1], overrides: ['task.env=null']}]", "'pusht', which has no environment"),
        (
            "[{name: a, steps: [1], overrides: ['trainer.keep_last=1', 'trainer.checkpoint_every=9']}]",
            r"last_k=2 checkpoints .* of benchmark entry 'a' leaves 1: lower",
        ),
        (
            "[{name: a, steps: [1], overrides: ['trainer.keep_last=1', 'trainer.keep_every=7000']}]",
            r"last_k=2 checkpoints .* of benchmark entry 'a' leaves 1: lower",
        ),
        ("[{name: a, steps: [1], overrides: ['trainer.max_steps=abc']}]", "trainer.max_steps=abc must be"),
        ("[{name: a, checkpoint: x}]", "at least 'name' and 'steps'"),
        ("[{name: a b, steps: [1], checkpoint: x}, {name: a_b, steps: [1], checkpoint: y}]", "rename one"),
        ("[{name: a/b, steps: [1], checkpoint: x}]", "name=a/b must be a word or more, without '/'"),
        (
            "[{name: a, steps: [1], checkpoint: x, colour: red}]",
            "'a' has no setting 'colour': it has name, steps, checkpoint",
        ),
        ("[{name: a, steps: [1], checkpoint: x}, {name: a, steps: [1], checkpoint: y}]", "are named 'a'"),
        ("[{name: a, steps: [1], checkpoint: /nowhere}]", "no checkpoint at /nowhere"),
    ],
)
def test_entries_that_cannot_be_used_are_refused(entries, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        benchmark.run(
            configuration("benchmark", f"entries={entries}", "last_k=2", f"output='{tmp_path}/out'")
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_refusals_come_before_any_work(runs, tmp_path, tiny_policy):
    output = tmp_path / "out"
    with pytest.raises(InputError, match="holds 2 checkpoints, but last_k=3"):
        benchmark.run(short(runs, output, "last_k=3"))
    with pytest.raises(InputError, match="no place for the table"):
        benchmark.run(short(runs, output, f"readme='{tmp_path}/README.md'"))
    for wrong in (
        *("episodes=0", "seed=-1", "num_envs=2.5", "last_k=0", "compute_rounds=0", "device=quantum"),
        *(
            "videos=-1",
            "overwrite=no",
            "trained_only=no",
            "measure=no",
            "curve_checkpoints=-1",
            "published=/nowhere",
        ),
        "publish=/etc/passwd",
    ):
        with pytest.raises(InputError, match=wrong):
            benchmark.run(short(runs, output, wrong))
    save_copy(tiny_policy, tmp_path / "lift", task={**tiny_policy.metadata["task"], "name": "lift"})
    entries = (
        f"entries=[{{name: a, checkpoint: '{runs}/diffusion', steps: [1]}},"
        f"{{name: b, checkpoint: '{tmp_path}/lift', steps: [1]}}]"
    )
    with pytest.raises(InputError, match="'b' is of task 'lift', but 'a' is of task 'pusht'"):
        benchmark.run(short(runs, output, entries))
    assert not output.exists()


def test_checkpoints_of_a_run_and_of_a_checkpoint_folder(runs):
    names = [path.name for path in all_checkpoints(runs / "shortcut", last_k=1)]
    assert names == ["step_00000010", "step_00000020"]
    assert all_checkpoints(runs / "diffusion", last_k=5) == [runs / "diffusion"]


@pytest.mark.slow
def test_trainings_of_a_benchmark_find_the_users_own_configs(tmp_path, give, capsys):
    (tmp_path / "task").mkdir()
    (tmp_path / "task/mine.yaml").write_text("defaults: [pusht]\nname: my_task\nenv: null\n")
    entries = "entries=[{name: a, steps: [1], overrides: ['task=mine']}]"
    with pytest.raises(SystemExit, match="2"):
        give(cli.benchmark, "--config-dir", str(tmp_path), entries)
    assert "trains on task 'my_task'" in capsys.readouterr().err


def test_demo_compares_equal_budgets():
    config = configuration("demo", "training_seed=3", "shortcut_updates=30", "diffusion_updates=50")
    entries = benchmark.read_benchmark(config).entries
    assert [list(entry.overrides) for entry in entries] == [
        ["objective=shortcut", "objective.bootstrap_from=0.6", "trainer.max_steps=30"],
        ["objective=diffusion", "trainer.max_steps=50"],
    ]
    assert all(list(entry.seeds) == [3] for entry in entries)
    assert len({entry.train_minutes for entry in entries}) == 1, "the same time to train"
    assert sum(entry.train_minutes + entry.rollout_minutes for entry in entries) <= 12


def test_a_marker_must_be_closed(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("<!-- results:x -->\n")
    with pytest.raises(InputError, match=r"a\.md: no place"):
        place_in(document, "x")
    document.write_text("<!-- results:x --><!-- /results -->\n<!-- results:y --><!-- /results -->")
    write_into(document, "y", "table")
    assert (
        document.read_text()
        == "<!-- results:x --><!-- /results -->\n<!-- results:y -->\ntable\n<!-- /results -->"
    )


def test_rollouts_that_would_get_mixed_up_are_refused(runs, tmp_path, tiny_policy):
    save_copy(tiny_policy, tmp_path / "a/diffusion")
    save_copy(tiny_policy, tmp_path / "lift", task={**tiny_policy.metadata["task"], "name": "lift"})
    for checkpoints, more, sentence in (
        (
            f"[{runs}/diffusion,{tmp_path}/a/diffusion]",
            "steps=1",
            "two of the checkpoints are called diffusion",
        ),
        (f"[{runs}/diffusion,{tmp_path}/lift]", "steps=1", "are of the tasks lift, pusht"),
        ("[]", "steps=1", r"checkpoint=\[\] names nothing"),
        (f"{runs}/diffusion", "steps=[]", r"steps=\[\] names nothing"),
    ):
        with pytest.raises(InputError, match=sentence):
            roll_out(configuration("rollout", f"checkpoint={checkpoints}", more, f"output={tmp_path}/out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_rollout_command_beside_packages_of_other_names(runs, tmp_path):
    for name in ("envs", "studies", "scripts", "configs", "tests", "benchmarks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")

    def rollout(*arguments):
        command = [
            sys.executable,
            ROOT / "scripts/rollout.py",
            f"checkpoint={runs}/shortcut",
            f"output={tmp_path}/out",
        ]
        command += ["episodes=2", "batch_size=2", "+env.max_steps=8", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    refused = rollout("steps=[1,3]")
    assert refused.returncode == 2
    assert re.fullmatch(r"error: steps=3 .*\n", refused.stderr), "one line, and no work before it"
    assert not (tmp_path / "out").exists()
    done = rollout("steps=[1]")
    assert done.returncode == 0, done.stderr
    assert "strict success" in done.stdout
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    assert "scripts/rollout.py checkpoint=" in row["command"]
    assert (tmp_path / "out/shortcut/steps_001/paths.png").is_file()


@pytest.mark.parametrize(("folder", "graded"), [("pusht", True), ("robomimic/lift", False)])
def test_a_task_without_a_score_of_its_own_shows_success_alone(folder: str, graded: bool, tmp_path: Path):
    rows = json.loads((ROOT / "results" / folder / "results.json").read_text())
    text = results_table(rows).markdown()
    first = text.splitlines()[2]
    assert ("strict success" in text, "score" in text, " | success | " in text) == (
        graded,
        graded,
        not graded,
    )
    assert f"| {rows[0]['success']:.0%} [" in first and (f"| {rows[0]['score']:.3f} [" in first) == graded
    plots.plot_steps(rows, tmp_path / "steps.svg")
    drawn = (tmp_path / "steps.svg").read_text()
    assert (drawn.count('<g id="axes_'), "Strict success" in drawn) == (2 if graded else 1, graded)


@pytest.mark.parametrize("plot", [plots.plot_steps, plots.plot_latency])
def test_a_legend_of_many_methods_is_not_cut_off(plot, tmp_path: Path, monkeypatch):
    rows = json.loads((ROOT / "results/pusht/results.json").read_text())
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    for many in (rows, [row | {"score": row["success"]} for row in rows]):
        plot(many, tmp_path / "figure.png")
    for figure in figures:
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
        assert len(legend.get_texts()) == len({row["name"] for row in rows})


def test_numbers_in_a_crowd_of_methods_do_not_cover_each_other(tmp_path: Path, monkeypatch):
    rows = json.loads((ROOT / "results/pusht/results.json").read_text())
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.plot_latency(rows, tmp_path / "figure.png")
    figures[0].draw_without_rendering()
    numbers = [text.get_window_extent() for text in figures[0].axes[0].texts]
    assert len(rows) / 4 < len(numbers) < len(rows)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(numbers, 2))


def test_only_environments_with_paths_have_a_picture_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "tile_videos", lambda films, film: film.touch())
    found = []
    for make in ((), ("paths.png",)):
        for name in make:
            (tmp_path / name).touch()
        pictures = outputs.tile_films(tmp_path, "lift", 1, EvaluationProtocol(episodes=2), 2, tmp_path)
        found.append([picture.path.name for picture in pictures])
    assert found == [["lift_1_step.mp4"], ["lift_1_step.mp4", "paths.png"]]


def test_table_is_whole_in_a_narrow_terminal():
    header = ["method", *(f"quantity{number}" for number in range(8))]
    lines = [["shortcut", *(f"0.{number}2345678" for number in range(8))]]
    console = Console(width=60, file=io.StringIO())
    console.print(TextTable(header, lines, caption="").rich())
    rows = [line for line in console.file.getvalue().splitlines() if line[0] in "┃│"]
    cells = zip(*(re.split("[┃│]", row)[1:-1] for row in rows), strict=True)
    columns = ["".join(part.strip() for part in column) for column in cells]
    assert columns == [title + cell for title, cell in zip(header, lines[0], strict=True)]


def test_one_training_counts_once(tmp_path):
    entries = "entries=[{name: a, runs: [runs/a, runs/a], steps: [1]}]"
    with pytest.raises(InputError, match="'a' has runs/a twice in runs: one training counts once"):
        benchmark.run(configuration("benchmark", entries, f"output='{tmp_path}/out'"))
    with pytest.raises(InputError, match="entries=3 must be a list of mappings"):
        benchmark.run(configuration("benchmark", "entries=3", f"output='{tmp_path}/out'"))
