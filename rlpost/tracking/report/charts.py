"""The charts of the report.

Owns titles, metric names, units and the one sentence of help. Refuses to own drawing
(templates/report.js). Invariants: a chart appears only if one of its metrics was logged with a
finite value; a metric keeps its colour within a chart.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rlpost.tracking.progress import COMPONENT


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve: a metric and its name in the legend."""

    metric: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart; ``band`` is the (low, high) pair of metrics around the first curve.

    A metric with a ``*`` stands for every logged metric of that form; the label of each is the
    series' label followed by the text that the star matched.
    """

    name: str
    title: str
    unit: str
    help: str
    series: tuple[Series, ...]
    kind: str = "line"  # line | bars (stacked)
    band: tuple[str, str] | None = None
    range01: bool = False  # the axis shows all of 0..1
    log_scale: bool = False
    wide: bool = False
    graded: bool | None = None  # shown only if held-out rewards are (not) graded; None: always
    min_curves: int = 1  # with fewer, it would repeat another chart


def _timing(*names: str) -> tuple[Series, ...]:
    words = {"gen": "generate", "adv": "advantages", "testing": "evaluate"}
    return tuple(
        Series(metric=f"timing_s/{name}", label=words.get(name, name.replace("_", " ")))
        for name in names
    )


CHARTS = (
    Chart(
        name="heldout",
        title="Held-out accuracy",
        unit="accuracy",
        help="Share of held-out problems solved: the number this run is for.",
        series=(Series(metric="val-core/*", label=""),),
        range01=True,
        wide=True,
        graded=False,
    ),
    Chart(
        name="graded",
        title="Held-out reward",
        unit="mean reward",
        help="Mean reward of held-out prompts: the number this run is for.",
        series=(Series(metric="val-core/*", label=""),),
        wide=True,
        graded=True,
    ),
    Chart(
        name="reward",
        title="Training reward",
        unit="mean reward",
        help="Mean reward of the responses sampled for each step.",
        series=(Series(metric="critic/score/mean", label="reward"),),
    ),
    Chart(
        name="components",
        title="Reward components",
        unit="mean reward",
        help="Each verifier and reward model by itself, before its weight.",
        series=(Series(metric="verifier/*/mean", label=""),),
        min_curves=2,
    ),
    Chart(
        name="heldoutparts",
        title="Held-out reward components",
        unit="mean reward",
        help="Each verifier by itself on held-out prompts, before its weight.",
        series=(Series(metric="val-aux/*", label=""),),
        min_curves=2,
    ),
    Chart(
        name="length",
        title="Response length",
        unit="tokens",
        help="Mean response length; the band runs from the shortest to the longest.",
        series=(Series(metric="response_length/mean", label="mean length"),),
        band=("response_length/min", "response_length/max"),
    ),
    Chart(
        name="groups",
        title="Groups that teach",
        unit="share of groups",
        help="Groups whose samples all pass or all fail carry no gradient.",
        series=(
            Series(metric="group/all_pass_frac", label="all pass"),
            Series(metric="group/all_fail_frac", label="all fail"),
            Series(metric="group/zero_std_frac", label="equal rewards"),
        ),
        range01=True,
    ),
    Chart(
        name="entropy",
        title="Entropy",
        unit="nats per token",
        help="How undecided the policy is; a fall to 0 means it stopped exploring.",
        series=(Series(metric="actor/entropy", label="entropy"),),
    ),
    Chart(
        name="kl",
        title="Distance of policies",
        unit="nats per token",
        help="Sampler against trainer (mismatch), and the policy against its anchors.",
        series=(
            Series(metric="rollout_corr/kl", label="sampler vs trainer"),
            Series(metric="rollout_corr/k3_kl", label="sampler vs trainer, k3"),
            Series(metric="actor/ppo_kl", label="update"),
            Series(metric="actor/kl_loss", label="reference"),
        ),
    ),
    Chart(
        name="grad",
        title="Gradient norm",
        unit="norm before clipping",
        help="Spikes show unstable updates.",
        series=(
            Series(metric="actor/grad_norm", label="policy"),
            Series(metric="critic/grad_norm", label="critic"),
        ),
    ),
    Chart(
        name="loss",
        title="Loss",
        unit="loss",
        help="Losses that were minimised.",
        series=(
            Series(metric="actor/pg_loss", label="policy gradient"),
            Series(metric="critic/vf_loss", label="value"),
            Series(metric="sft/loss", label="supervised"),
        ),
    ),
    Chart(
        name="clip",
        title="Clipping and truncation",
        unit="share",
        help="Tokens whose ratio was clipped, and responses cut at the length limit.",
        series=(
            Series(metric="actor/pg_clipfrac", label="clipped tokens"),
            Series(metric="response_length/clip_ratio", label="truncated responses"),
        ),
    ),
    Chart(
        name="timing",
        title="Where the time goes",
        unit="seconds per step",
        help="Wall time of each part of a step.",
        series=_timing(
            "gen",
            "reward",
            "ref",
            "values",
            "adv",
            "update_critic",
            "update_actor",
            "update_weights",
            "offload",
            "testing",
            "save_checkpoint",
        ),
        kind="bars",
        wide=True,
    ),
    Chart(
        name="staleness",
        title="Staleness",
        unit="share of groups",
        help="How many steps old the weights were that sampled the groups of each step.",
        series=(Series(metric="training/off_policy/staleness/*", label="lag"),),
        kind="bars",
        range01=True,
    ),
    Chart(
        name="throughput",
        title="Throughput",
        unit="tokens per second",
        help="Tokens sampled and trained per second of a whole step.",
        series=(Series(metric="perf/throughput", label="tokens/s"),),
    ),
    Chart(
        name="push",
        title="Weight pushes",
        unit="seconds",
        help="Time from trainer to generators.",
        series=(Series(metric="weights/push_s", label="push"),),
    ),
    Chart(
        name="probe",
        title="Weight probe",
        unit="mean |log-prob difference|",
        help="Generator against trainer on a fixed batch after every push.",
        series=(Series(metric="weights/probe_logprob_diff_mean", label="difference"),),
        log_scale=True,
    ),
    Chart(
        name="verifier",
        title="Verifier failures",
        unit="share of responses",
        help="Responses that could not be judged; they are left out, never counted as 0.",
        series=(Series(metric="verifier/*", label=""),),
    ),
)

_WILDCARDS = {
    "training/off_policy/staleness/*": re.compile(r"training/off_policy/staleness/(\d+)"),
    "val-aux/*": re.compile(r"val-aux/(.+)/mean@\d+"),
    "val-core/*": re.compile(r"val-core/(.+)/acc/(?:mean@\d+)"),
    "verifier/*/mean": COMPONENT,
    "verifier/*": re.compile(r"verifier/(.+/(?:error|timeout)_rate)"),
}


def chosen(*, graded: bool) -> list[Chart]:
    """Return the charts for runs with graded held-out rewards, or with rewards of 0 and 1."""
    return [chart for chart in CHARTS if chart.graded in (None, graded)]


def charts_for(metrics: Iterable[str], *, graded: bool = False) -> list[dict[str, Any]]:
    """Return the charts that have something to show, as plain data for the page."""
    known = list(metrics)
    shown = []
    for chart in chosen(graded=graded):
        series = curves_of(chart, known)
        if series:
            band = chart.band if chart.band and set(chart.band) <= set(known) else None
            wildcard = any(part.metric in _WILDCARDS for part in chart.series)
            drawn = {
                "series": [asdict(each) for each in series],
                "band": band,
                "legend": wildcard or len(series) > 1,
            }
            shown.append({**asdict(chart), **drawn})
    return shown


def curves_of(chart: Chart, known: list[str]) -> list[Series]:
    """Return the curves of ``chart`` that ``known`` metrics can draw, wildcards spelled out."""
    curves = [each for part in chart.series for each in _resolve(part, known)]
    return curves if len(curves) >= chart.min_curves else []


def _resolve(series: Series, known: list[str]) -> list[Series]:
    if series.metric not in _WILDCARDS:
        return [series] if series.metric in known else []
    pattern = _WILDCARDS[series.metric]
    found = [(match[1], name) for name in known if (match := pattern.fullmatch(name))]
    # Numbers are sorted by value: lag 10 comes after lag 9.
    found.sort(key=lambda pair: (pair[0].isdigit(), int(pair[0]) if pair[0].isdigit() else 0))
    return [
        Series(metric=name, label=f"{series.label} {rest}".strip().replace("_", " "))
        for rest, name in found
    ]
