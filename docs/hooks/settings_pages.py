"""Every setting of every command: pages made of the yaml files, their comments and docstrings of classes.

A comment behind a setting, or in lines of its own above it, describes it. Where there is none, the docstring
of the class that the file builds does.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import griffe
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
#: Groups of the configuration, in the order in which a reader meets them.
GROUPS = ("task", "objective", "backbone", "encoder", "trainer", "expert", "experiment")
#: Settings of these names are those of a class, also where they do not name it.
TYPED = {
    "trainer": "shortcut_policy.training.config.TrainerConfig",
    "classifier": "shortcut_policy.images.classifier.ClassifierSettings",
}
#: Commands that come before the others.
FIRST = ("rollout", "train")
NOT_SETTINGS = ("defaults", "hydra")

COMMANDS_INTRO = """# Settings of commands

Every setting of a command can be given on its command line as `key=value`. Nested keys are joined by dots,
lists stand in brackets: `steps=[1,4]`. A setting whose value is `???` must be given. Parts such as
`objective` have settings of their own, on [another page](settings_of_parts.md). This page is made from the
files in `configs/`.
"""
PARTS_INTRO = """# Settings of parts

A part is chosen by the name of its file, `objective=flow_matching`, and its settings are given after a dot,
`objective.error=l1`. A folder of yours, `--config-dir my_configs`, adds files to every group. This page is
made from the files in `configs/` and the docstrings of the classes that they build.
"""


@dataclass(frozen=True)
class Setting:
    """One line of a table: dotted key, value as the file has it, description."""

    key: str
    value: str
    text: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the two pages."""
    files.append(File.generated(config, "settings_of_commands.md", content=commands_page()))
    files.append(File.generated(config, "settings_of_parts.md", content=parts_page()))
    return files


def commands_page() -> str:
    """The settings of each command, and the benchmarks that come prepared."""
    commands = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    paths = sorted(CONFIGS.glob("*.yaml"), key=lambda path: (path.stem not in FIRST, path.stem))
    sections = [_section(f"scripts/{path.stem}.py", path) for path in paths if path.stem in commands]
    others = {path.stem: _intro(path).partition("```")[0] for path in paths if path.stem not in commands}
    prepared = [f"| `{name}` | {_cell(text)} |" for name, text in others.items()]
    table = "\n".join(["| `--config-name` | what it compares |", "| :-- | :-- |", *prepared])
    return "\n\n".join([COMMANDS_INTRO, *sections, "## Prepared benchmarks", table])


def parts_page() -> str:
    """The files of each group with their settings."""
    sections = []
    for group in GROUPS:
        sections.append(f"## {group}")
        for path in sorted((CONFIGS / group).rglob("*.yaml")):
            name = path.relative_to(CONFIGS / group).with_suffix("").as_posix()
            if not name.startswith("base/"):
                sections.append(_section(f"{group}={name}", path, level=3))
    return "\n\n".join([PARTS_INTRO, *sections])


def _section(title: str, path: Path, level: int = 2) -> str:
    parts = [f"{'#' * level} {title}", _intro(path), _built(path), _table(settings(path))]
    return "\n\n".join(part for part in parts if part)


def _built(path: Path) -> str:
    """What a file builds, and on which others it is laid."""
    content = yaml.safe_load(path.read_text("utf-8")) or {}
    target, defaults = content.get("_target_"), content.get("defaults", [])
    below = [str(name).split("@")[0] for name in defaults if isinstance(name, str) and name != "_self_"]
    sentences = [f"Builds `{target}`."] if target else []
    sentences += [f"Laid over {', '.join(f'`{name}`' for name in below)}."] if below else []
    return " ".join(sentences)


def _table(rows: list[Setting]) -> str:
    if not rows:
        return ""
    lines = [f"| `{row.key}` | {_code(row.value)} | {_cell(row.text)} |" for row in rows]
    return "\n".join(["| setting | value | |", "| :-- | :-- | :-- |", *lines])


def settings(path: Path) -> list[Setting]:
    """The settings of a yaml file, in its order."""
    text = path.read_text("utf-8")
    lines = text.splitlines()
    leaves = list(_leaves(yaml.compose(text, Loader=yaml.SafeLoader), lines))
    targets = {"": _target(path)} | {
        row.key.removesuffix("._target_"): row.value for row, _ in leaves if row.key.endswith("._target_")
    }
    found = []
    for row, mark in leaves:
        owner, _, name = row.key.rpartition(".")
        if row.key.split(".")[0] not in NOT_SETTINGS and name != "_target_":
            described = _docstring(targets.get(owner) or TYPED.get(owner or path.parent.name, ""))
            found.append(Setting(row.key, row.value, _comment(lines, *mark) or described.get(name, "")))
    return found


def _target(path: Path) -> str:
    """What a file builds, by itself or by the file of its group that it is laid over."""
    content = yaml.safe_load(path.read_text("utf-8")) or {}
    below = [path.parent / f"{name}.yaml" for name in content.get("defaults", []) if isinstance(name, str)]
    found = [content.get("_target_", ""), *(_target(other) for other in below if other.is_file())]
    return next(filter(None, found), "")


def _leaves(
    node: yaml.Node | None, lines: list[str], prefix: str = ""
) -> Iterator[tuple[Setting, tuple[int, int, int]]]:
    """Settings without their texts, each with its first line, its last line and where that ends.

    A mapping with a comment of its own above it is one setting.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        block = isinstance(value, yaml.CollectionNode) and value.value and not value.flow_style
        if block and isinstance(value, yaml.MappingNode) and not _above(lines, key.start_mark.line):
            yield from _leaves(value, lines, f"{prefix}{key.value}.")
        else:
            last = value.start_mark if block else value.end_mark
            text = "..." if block else _source(value)
            yield Setting(prefix + key.value, text, ""), (key.start_mark.line, last.line, last.column)


def _source(value: yaml.Node) -> str:
    """A value as it is written."""
    buffer = value.start_mark.buffer or ""
    return buffer[value.start_mark.pointer : value.end_mark.pointer].strip("\0 \n") or "null"


def _comment(lines: list[str], first: int, last: int, column: int) -> str:
    """The comment behind a setting with the lines that go on with it, or else the one above it."""
    behind = lines[last][column:] if last < len(lines) else ""
    if (start := behind.find("#")) >= 0:
        found = [behind[start + 1 :]]
        for line in lines[last + 1 :]:
            if not line.lstrip().startswith("#") or line.index("#") < column:
                break
            found.append(line.lstrip().lstrip("#"))
        return " ".join(text.strip() for text in found)
    return _above(lines, first)


def _above(lines: list[str], first: int) -> str:
    above = []
    indent = len(lines[first]) - len(lines[first].lstrip())
    for line in reversed(lines[1:first]):
        if not line.lstrip().startswith("#") or line.index("#") != indent:
            break
        above.append(line.lstrip("# ").strip())
    return " ".join(reversed(above))


def _intro(path: Path) -> str:
    """The comment at the head of a file: sentences as text, commands as code."""
    head = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line[1:].removeprefix(" "))
    text = "\n".join(line for line in head if not line.startswith("@package"))
    commands = re.compile(r"(?:^ {2,}\S*.*scripts/.*\n?)+", flags=re.M)
    parts, end = [], 0
    for found in commands.finditer(text):
        block = "\n".join(line.strip() for line in found[0].splitlines())
        parts += [html.escape(text[end : found.start()], quote=False), f"\n```bash\n{block}\n```\n\n"]
        end = found.end()
    return "".join([*parts, html.escape(text[end:], quote=False)]).strip()


@cache
def _package(name: str) -> griffe.Object | griffe.Alias:
    return griffe.load(name, search_paths=[ROOT, ROOT / "envs"], resolve_aliases=True)


def _docstring(target: str) -> dict[str, str]:
    """What the docstring of a class of ours says of its arguments."""
    package, _, rest = target.partition(".")
    if package not in ("shortcut_policy", "shortcut_envs"):
        return {}
    try:
        docstring = _package(package)[rest].docstring
    except KeyError:
        return {}
    if docstring is None:
        return {}
    kinds = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)
    sections = [part.value for part in docstring.parse("google") if part.kind in kinds]
    return {item.name: item.description for part in sections for item in part}


def _cell(text: str) -> str:
    """Plain text, with code in backticks, for a cell of a table."""
    parts = re.split(r"(`+[^`]+`+)", " ".join(text.split()).replace("|", "\\|"))
    plain = [re.sub(r"([_*<])", r"\\\1", part) for part in parts[::2]]
    return "".join(a + b for a, b in zip(plain, [*parts[1::2], ""], strict=True))


def _code(value: str) -> str:
    shown = " ".join(value.split()).strip("\"'")
    return f"`{shown}`".replace("|", "\\|") if shown else '`""`'
