"""Renders templates and data as one self-contained HTML page.

Owns the rendering. Refuses to own the content (report_data.py,
comparison_data.py) and the layout (templates/). Invariants: a page loads nothing from the network
and works from ``file://``; text from data reaches it only through escaping.
"""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render_page(
    name: str, *, data: Mapping[str, Any], page: Mapping[str, Any] | None = None
) -> str:
    """Render ``templates/<name>.html.j2``.

    ``data`` is what the template sees, ``page`` what ``<name>.js`` finds as JSON; None: the page
    has no script.
    """
    loader = PackageLoader("rlpost.tracking.report", "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def source(file: str) -> Markup:
        return Markup(loader.get_source(environment, file)[0])

    text = environment.get_template(f"{name}.html.j2").render(
        data=data,
        page_json=_script_json(page),
        plotly_js="" if page is None else _plotly(),
        drawing_js=source("drawing.js"),
        page_js="" if page is None else source(f"{name}.js"),
        page_css=source("report.css"),
    )
    return text.encode("utf-8", "replace").decode()  # half of a surrogate pair is not valid text


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _script_json(value: Any) -> Markup:
    """Return JSON in which no text can end its script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
