"""Panels: which metrics are drawn together, and under which words.

Owns the form of a declaration and which curves of a panel a run has. Refuses to own the
declarations (one file per kind of stage) and drawing (report/, wandb/). Invariant: a panel names
its metrics one by one, or all metrics of one form by a pattern, never both.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric and its name in the legend."""

    metric: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot over the steps of a run.

    Example: ``Panel(title="Entropy", unit="nats per token", help="How undecided the policy is.",
    curves={"actor/entropy": "entropy"})``
    """

    title: str
    unit: str
    help: str  # one sentence or two
    curves: Mapping[str, str] = field(default_factory=dict)  # metric -> name in the legend
    pattern: str | None = None  # RE2; its first group, if any, is the name in the legend
    label: str = ""  # before the name that a pattern gives
    stacked: bool = False
    band: tuple[str, str] | None = None  # lowest and highest, around the first curve
    range01: bool = False  # the axis shows all of 0..1
    log_scale: bool = False
    wide: bool = False
    min_curves: int = 1  # with fewer, it would repeat another panel
    graded: "Panel | None" = None  # in its place, where held-out rewards are not only 0 and 1

    def __post_init__(self) -> None:
        assert bool(self.curves) != bool(self.pattern), self.title

    def shown(self, known: Iterable[str]) -> list[Curve]:
        """Return the curves that the metrics ``known`` can draw; none if they are too few."""
        if self.pattern is None:
            logged = self.curves.keys() & set(known)
            found = [Curve(metric=m, label=self.curves[m]) for m in self.curves if m in logged]
        else:
            found = self._matching(known, re.compile(self.pattern))
        return found if len(found) >= self.min_curves else []

    def _matching(self, known: Iterable[str], pattern: re.Pattern[str]) -> list[Curve]:
        names = {name: match for name in known if (match := pattern.fullmatch(name))}
        words = {name: (match[1] or "") if match.re.groups else "" for name, match in names.items()}
        # Numbers are sorted by value: lag 10 comes after lag 9.
        order = sorted(words, key=lambda n: int(words[n]) if words[n].isdigit() else -1)
        return [
            Curve(metric=name, label=f"{self.label} {words[name]}".strip().replace("_", " "))
            for name in order
        ]


@dataclass(frozen=True, kw_only=True)
class CurveSection:
    """Panels that answer the question in ``title``; ``help`` explains them."""

    title: str
    help: str
    panels: tuple[Panel, ...]


def timings(*names: str, **labels: str) -> dict[str, str]:
    """Return the curves of ``timing_s/*``, by words that a person understands."""
    return {f"timing_s/{name}": labels.get(name, name.replace("_", " ")) for name in names}
