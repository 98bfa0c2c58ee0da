"""Which curves each stage shows.

Owns the table. Refuses to own the declarations. A new stage adds a line here.
"""

from dataclasses import replace

from rlpost.tracking.curves import adapter, distill, every_stage, preference, reward, rl
from rlpost.tracking.curves.panel import CurveSection
from rlpost.tracking.curves.supervised import learning

_ADAPTER = adapter.CAPACITY
_REWARDED = (rl.LEARNING, rl.SOUNDNESS, _ADAPTER, rl.STALENESS, rl.VERIFIERS)

STAGE_SECTIONS: dict[str, tuple[CurveSection, ...]] = {
    "rl": _REWARDED,
    "rft": _REWARDED,
    "sft": (learning("sft"), _ADAPTER),
    "pretrain": (learning("pretrain"), _ADAPTER),
    "preference": (*preference.SECTIONS, _ADAPTER, rl.STALENESS, rl.VERIFIERS),
    "reward": (reward.JUDGING, reward.SOUNDNESS, _ADAPTER),
    "distill": (distill.LEARNING, _ADAPTER, rl.STALENESS, rl.VERIFIERS),
    "evaluate": (),  # one row of scores is no curve
    "merge": (),  # nothing is learned
    "serve": (),
    "pipeline": (),  # its stages have curves of their own
}


def sections_of(stages: list[str] | None = None) -> list[CurveSection]:
    """Return the sections of ``stages``, in their order; None: of every stage.

    A panel that several sections have is in the first of them.
    """
    chosen = list(STAGE_SECTIONS) if stages is None else stages
    own = [section for stage in chosen for section in STAGE_SECTIONS[stage]]
    by_title = {each.title: each for each in (*own, every_stage.TIME, every_stage.COST)}
    seen, found = set[str](), []
    for section in by_title.values():
        panels = tuple(panel for panel in section.panels if panel.title not in seen)
        seen |= {panel.title for panel in panels}
        found.append(replace(section, panels=panels))
    return found
