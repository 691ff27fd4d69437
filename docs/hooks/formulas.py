"""Formulas as drawings, made by matplotlib when the site is built: no script and no font from elsewhere."""

import html
import re

from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

#: Code, which stays as it is; $$...$$ on its own; $...$ in a line.
FORMULA = re.compile(
    r"^ *```.*?^ *```|`[^`\n]*`|\$\$(?P<display>.+?)\$\$|(?<!\\)\$(?P<inline>[^$\n]+(?:\n[^$\n]+)?)\$",
    flags=re.M | re.S,
)
#: TeX that matplotlib spells otherwise.
SPELLINGS = (
    (r"\\[tf]*frac(\w)(\w)", r"\\frac{\1}{\2}"),
    (r"\\tfrac", r"\\frac"),
    (r"\\mathrm (\w)", r"\\mathrm{\1}"),
    (r"\\[lr]Vert", r"\\Vert"),
    (r"\\dots", r"\\ldots"),
    (r"\\[Bb]ig(?![a-z])", ""),
    (r"\s+", " "),
)
#: Of text in points, and what makes formulas as large as the text around them.
SIZE, EM = 10.0, 0.105
FONT = FontProperties(size=SIZE, math_fontfamily="cm")
#: Codes of matplotlib.path.Path -> commands of an svg path.
COMMANDS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace each formula by its drawing."""

    def drawn(found: re.Match[str]) -> str:
        if found["display"]:
            return f"\n\n{drawing(found['display'], 'formula display')}\n\n"
        return drawing(found["inline"], "formula") if found["inline"] else found[0]

    return FORMULA.sub(drawn, markdown)


def drawing(tex: str, style: str) -> str:
    """A formula as an svg element that stands on the line of the text around it."""
    text = f"${respelled(tex)}$"
    width, height, depth, *_ = MathTextParser("path").parse(text, dpi=72, prop=FONT)
    outline = TextPath((0, 0), text, prop=FONT)
    steps = (
        COMMANDS[int(code)]
        + ("" if code == Outline.CLOSEPOLY else " ".join(f"{number:.2f}" for number in points))
        for points, code in outline.iter_segments(simplify=False, curves=True)
    )
    return (
        f'<svg class="{style}" role="img" aria-label="{html.escape(" ".join(tex.split()))}" '
        f'style="height:{height * EM:.3f}em;vertical-align:{-depth * EM:.3f}em" '
        f'viewBox="0 {depth - height:.2f} {width:.2f} {height:.2f}">'
        f'<path transform="scale(1 -1)" d="{"".join(steps)}"/></svg>'
    )


def respelled(tex: str) -> str:
    """The formula in matplotlib's subset of TeX."""
    for pattern, replacement in SPELLINGS:
        tex = re.sub(pattern, replacement, tex)
    return tex.strip()
