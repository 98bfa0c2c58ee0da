"""The panels of a run as plain data for the page.

Owns the choice of what a page draws. Refuses to own the panels (curves/) and drawing
(templates/). Invariant: a section or a chart appears only if one of its metrics was logged with a
finite value.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rlpost.tracking.curves.panel import Curve, Panel
from rlpost.tracking.curves.table import sections_of


def panels_with_curves(
    metrics: Iterable[str], *, graded: bool
) -> Iterator[tuple[str, Panel, list[Curve]]]:
    """Yield (title of its section, panel, curves) of every panel with something to show.

    ``graded``: held-out rewards are not only 0 and 1, so their mean is no accuracy.
    """
    known = list(metrics)
    for section in sections_of():
        for declared in section.panels:
            panel = declared.graded if graded and declared.graded else declared
            if curves := panel.shown(known):
                yield section.title, panel, curves


def charts_for(metrics: Iterable[str], *, graded: bool = False) -> list[dict[str, Any]]:
    """Return the sections of charts that have something to show, as plain data for the page.

    Example: ``[{"title": "Does it learn?", "charts": [{"name": "training-reward",
    "title": "Training reward", "series": [{"metric": "critic/score/mean",
    "label": "reward"}], ...}]}]``
    """
    known = list(metrics)
    sections: dict[str, list[dict[str, Any]]] = {}
    for section, panel, curves in panels_with_curves(known, graded=graded):
        band = panel.band if panel.band and set(panel.band) <= set(known) else None
        chart = {
            "name": re.sub(r"\W+", "-", panel.title.lower()),
            "title": panel.title,
            "unit": panel.unit,
            "help": panel.help,
            "kind": "bars" if panel.stacked else "line",
            "series": [asdict(each) for each in curves],
            "band": band,
            "legend": len(curves) > 1 or bool(panel.pattern and curves[0].label),
            "range01": panel.range01,
            "log_scale": panel.log_scale,
            "wide": panel.wide,
        }
        sections.setdefault(section, []).append(chart)
    return [{"title": title, "charts": charts} for title, charts in sections.items()]
