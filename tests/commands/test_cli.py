"""What Hydra refuses, and what the system says of files, is one sentence and status 2, too."""

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from shortcut_policy.commands import cli
from shortcut_policy.errors import plain_sentence


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("trainer.max_step=60", "Could not override 'trainer.max_step': there is no such setting"),
        ("objective=nope", "Could not find 'objective/nope' Available options in 'objective': "),
        ("trainer.max_steps", "missing EQUAL"),
        (
            "output=runs/a=b",
            "output=runs/a=b cannot be read (mismatched input '=' expecting <EOF>): settings are",
        ),
        ("init_from=my runs(1)", "in quotes within quotes, \"key='a=b c'\""),
        (
            "output=~/b",
            "output=~/b cannot be read (a character that cannot stand there): settings are given as "
            "key=value, and a value with =, ~, spaces",
        ),
        ("/runs/b", "/runs/b cannot be read (extraneous input '/' expecting"),
        # What Hydra itself does not expect.
        ("+trainer=null", "the settings cannot be composed (Config group override must be a string"),
        ("+=${seed}", "the settings cannot be composed"),
    ],
)
def test_what_hydra_refuses_is_one_sentence(given, sentence, give, capsys):
    with pytest.raises(SystemExit) as caught:
        give(cli.train, given)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1
    assert "To append" not in said and "HYDRA_FULL_ERROR" not in said


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "\tid: 1",
            r"is no YAML in line 2, column 1 (found character '\t' that cannot start any token): corr",
        ),
        ("name: twice", "is no YAML in line 2, column 1 (found duplicate key name): correct it"),
        ("obs: [1, 2", "is no YAML in line 3, column 1 (expected ',' or ']', but got"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_file_and_line(line, sentence, give, capsys, tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task/mine.yaml").write_text(f"name: mine\n{line}\n")
    with pytest.raises(SystemExit) as caught:
        give(cli.train, "--config-dir", str(tmp_path), "task=mine")
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.count("\n") == 1
    assert said.startswith("error: ") and f"task/mine.yaml {sentence}" in said


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.EIO, "Input/output error", "run/x"),
            "run/x cannot be used (Input/output error): look af",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "a file cannot be used (No space left on device): m",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "a"),
            "a cannot be used (Read-only file system): give an",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "gone/a"),
            "gone/a cannot be used (No suc",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
        (OSError("libGL.so.1: cannot open shared object file"), None),
        (RuntimeError("not the user's"), None),
    ],
)
def test_what_the_system_says_of_a_file_is_one_sentence(error, sentence):
    said = plain_sentence(error)
    assert said is None if sentence is None else said.startswith(sentence)
    try:
        raise KeyError("the writer's own") from error
    except KeyError as outer:
        assert plain_sentence(outer) == said


def test_code_that_ends_the_program_is_one_sentence_with_its_place(give, capsys, tmp_path, monkeypatch):
    (tmp_path / "ends.py").write_text("import sys\n\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as caught:
        give(cli.render, "task=pusht", "renderer={_target_: ends.Drawing}", f"output={tmp_path / 'x.zarr'}")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"error: {tmp_path / 'ends.py'}, line 3, called sys.exit(0) in" in said


def test_the_sentence_has_a_line_of_its_own_below_a_progress_bar(tmp_path):
    (tmp_path / "task.py").write_text(
        textwrap.dedent("""
            from tqdm import tqdm
            from shortcut_policy.commands.cli import command
            from shortcut_policy.errors import InputError

            def run(config):
                for number in tqdm(range(3)):
                    raise InputError("no more")

            command("train")(run)()
            """)
    )
    done = subprocess.run([sys.executable, "task.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == "error: no more"
    assert "0/3" in done.stderr


def test_nothing_is_said_after_the_sentence(tmp_path):
    """A renderer that was never finished fails once more when it is freed."""
    (tmp_path / "drawing.py").write_text(
        textwrap.dedent("""
            import gymnasium
            from shortcut_policy.errors import InputError

            class Renderer:
                def __init__(self):
                    raise RuntimeError("no screen")
                def __del__(self):
                    self.context.free()

            class Drawing:
                def __init__(self, **_):
                    try:
                        Renderer()
                    except RuntimeError as error:
                        raise InputError("drawing needs a screen") from error
        """)
    )
    command = [sys.executable, "-c", "from shortcut_policy.commands.cli import render; render()"]
    done = subprocess.run(
        [*command, "task=pusht", "renderer={_target_: drawing.Drawing}", "output=images.zarr"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: drawing needs a screen\n"


def test_ctrl_c_is_one_line(monkeypatch, give, capsys, tmp_path):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shortcut_policy.commands.view.run", interrupt)
    with pytest.raises(SystemExit) as caught:
        give(cli.view, f"store={tmp_path}")
    said = capsys.readouterr().err
    assert caught.value.code == 130 and said.startswith("interrupted: ") and said.count("\n") == 1


def test_commands_begin_without_what_takes_seconds_to_import():
    """A part of them needs it, and imports it where it does."""
    script = """
        import sys
        from shortcut_policy.commands import benchmark, export, rollout, serve, teleop, train
        print({"torch._dynamo", "torch._inductor", "diffusers", "pandas", "wandb"} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
