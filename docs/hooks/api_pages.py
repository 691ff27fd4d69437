"""Pages of the API: one for each room, with every module that is in it."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, ENVS = ROOT / "shortcut_policy", ROOT / "envs" / "shortcut_envs"
#: Rooms with a page: title and what stands above the modules.
ROOMS = {
    "data": ("Data", "Where demonstrations come from, how they are cut into windows, scaled and written."),
    "objectives": ("Objectives", "Each method is one module; [Methods](../methods.md) has the formulas."),
    "backbones": ("Backbones", "Networks that predict a step map."),
    "encoders": ("Encoders", "What turns observations, or classes, into the condition of a network."),
    "training": ("Training", "One loop for every objective, backbone and task."),
    "runtimes": ("Runtimes", "Policies as graphs; [Acting fast](../fast_act.md) compares what runs them."),
    "rollout": ("Rollout", "Playing a policy in its environment."),
    "serving": ("Serving", "A policy behind a socket; [Server](../server.md) shows how to use it."),
    "recording": ("Recording", "A person's demonstrations; [Record](../record.md) shows how to make some."),
    "benchmark": ("Benchmark", "The harness that compares methods."),
    "images": ("Images", "Image generation with the same objectives and trainer."),
    "commands": ("Commands", "What a script of `scripts/` calls; [Commands](../commands.md) lists them."),
}
#: Modules at the top of the package that act, load and save; the others are what every room uses.
POLICY = ("policy", "control", "pretrained", "checkpoint", "adaptive", "model", "hub", "model_card")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, content in pages().items():
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def pages() -> dict[str, str]:
    """Name of each page -> its content."""
    found = {
        room: _page(*ROOMS.get(room, (room.capitalize(), "")), _modules(PACKAGE / room)) for room in _rooms()
    }
    top = {path.stem: f"{PACKAGE.name}.{path.stem}" for path in sorted(PACKAGE.glob("[!_]*.py"))}
    acting = [top.pop(name) for name in POLICY if name in top]
    found["policy"] = _page("Policy", "Acting, loading and saving.", acting)
    found["basics"] = _page("Basics", "What every other room uses.", list(top.values()))
    found["environments"] = _page(
        "Environments", "Simulated tasks and their scripted experts.", _modules(ENVS)
    )
    return found


def _rooms() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def _modules(folder: Path) -> list[str]:
    """All modules of a package, by their dotted names; of a package itself only what it defines."""
    paths = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
    return [".".join(path.relative_to(folder.parents[0]).with_suffix("").parts) for path in paths]


def _page(title: str, intro: str, modules: list[str]) -> str:
    names = [
        name if name.startswith((PACKAGE.name, ENVS.name)) else f"{PACKAGE.name}.{name}" for name in modules
    ]
    return "\n\n".join([f"# {title}", intro, *(f"::: {name}" for name in names), ""])
