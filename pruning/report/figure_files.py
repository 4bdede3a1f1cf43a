"""Finished figures: Matplotlib settings, and a figure as SVG and PNG."""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RC_PARAMS: Any = {  # Matplotlib types the names of all its options
    "text.parse_math": False,  # a dollar sign in a name is not the start of a formula
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "pruning",
}
# Empty metadata keep dates and web addresses out of the files, so that the same records give the same files.
SVG_METADATA: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
MAX_COLUMN_WIDTH = 6.5  # inches; a wider figure is illegible in one column of the page
MAX_TITLE = 46  # characters


@dataclass(frozen=True)
class ReportFigure:
    """A finished figure.

    Attributes:
        name: file name without suffix.
        title, caption: plain text.
        svg, png: contents of the two files.
        wide: too wide for one column of the page.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    wide: bool

    def inline_svg(self) -> str:
        """Return the SVG as part of an HTML page: without declarations and comments, with ids unique in the page."""
        svg = re.sub(r"<!--.*?-->", "", self.svg[self.svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
        svg = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', svg)
        svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(self.title)}" ', 1)


def save_figure(figure: Figure, name: str, title: str, caption: str) -> ReportFigure:
    """Render a Matplotlib figure as SVG and PNG."""
    svg, png = io.StringIO(), io.BytesIO()
    wide = bool(figure.get_size_inches()[0] > MAX_COLUMN_WIDTH)
    figure.savefig(svg, format="svg", metadata=SVG_METADATA)
    figure.savefig(png, format="png", dpi=200)
    return ReportFigure(name, title, caption, svg.getvalue(), png.getvalue(), wide)


def wrap_label(label: str, width: int) -> str:
    """Break a label into lines of at most `width` characters; a number stays on the line of its name."""
    return "\n".join(textwrap.wrap(re.sub(r" (?=\d)", "\N{NO-BREAK SPACE}", label), width)) or label


def shorten_title(title: str) -> str:
    """Cut the middle out of a title that is too long for a figure."""
    half = MAX_TITLE // 2
    return title if len(title) <= MAX_TITLE else f"{title[:half]}…{title[-half:]}"
