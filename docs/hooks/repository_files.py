"""Pages may link to any file of the repository: what lies outside docs/ is added to the site."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Pages of the site that are kept where a reader of the repository looks for them.
MOVED = {ROOT / "CONTRIBUTING.md": "contributing.md"}
#: A block of code, which stays as it is, or a link or picture whose target is no address and no anchor alone.
LINK = re.compile(
    r"^ *```.*?^ *```|(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>(?!\w+:|#)[^)\s]+)\)",
    flags=re.M | re.S,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages link to, and those that these link to in turn."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    waiting += MOVED
    known = set(waiting)
    for path in waiting:
        if not path.is_relative_to(DOCS):
            files.append(File.generated(config, _place(path), abs_src_path=str(path)))
        if path.suffix == ".md":
            new = [target for target in _linked_files(path) if target not in known]
            known.update(new)
            waiting += new
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the links that are right in the repository right in the site."""
    source = Path(page.file.abs_src_path or DOCS / page.file.src_uri)

    def relinked(found: re.Match[str]) -> str:
        target, _, anchor = (found["target"] or "").partition("#")
        path = _outside_site(source, target) if target else None
        if path is None:
            return found[0]  # code, or of the site, or wrong, which MkDocs then says
        if path.is_dir():
            return found["text"][1:-1]
        place = os.path.relpath(_place(path), Path(page.file.src_uri).parent)
        return f"{found['text']}({place}{'#' + anchor if anchor else ''})"

    return LINK.sub(relinked, markdown)


def _linked_files(page: Path) -> list[Path]:
    """The files that a page links to and that MkDocs does not find by itself."""
    targets = [(found["target"] or "").partition("#")[0] for found in LINK.finditer(page.read_text("utf-8"))]
    paths = dict.fromkeys(_outside_site(page, target) for target in targets if target)
    return [path for path in paths if path and path.is_file() and DOCS not in path.parents]


def _outside_site(page: Path, target: str) -> Path | None:
    """The file or folder of the repository that a link leads to; None if a link within docs/, or if wrong."""
    path = (page.parent / unquote(target)).resolve()
    within = page.is_relative_to(DOCS) and path.is_relative_to(DOCS)
    return path if path.exists() and path.is_relative_to(ROOT) and not within else None


def _place(path: Path) -> str:
    """Where a file of the repository stands in the site."""
    if path in MOVED:
        return MOVED[path]
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
