"""Makes a W&B workspace and a W&B report of the panels that the report page shows, too.

Owns the conversion and the upload. Refuses to own which panels there are (curves/). Invariant:
only the upload needs a network, so tests can inspect the objects offline.
"""

from collections.abc import Sequence
from typing import Any

from rlpost.errors import UserError
from rlpost.tracking.curves.panel import CurveSection, Panel
from rlpost.tracking.wandb.mode import has_key

STEP = "training/global_step"
_PER_ROW = 3


def workspace(sections: Sequence[CurveSection], *, entity: str, project: str) -> Any:
    """Return the workspace, with one open section per question.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    _need_library()
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name="rlpost",
        settings=ws.WorkspaceSettings(x_axis=STEP, sort_panels_alphabetically=False),
        sections=[
            ws.Section(
                name=section.title,
                panels=[_plot(panel) for panel in section.panels],
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=_PER_ROW, rows=2),
            )
            for section in sections
        ],
    )


def report(sections: Sequence[CurveSection], *, entity: str, project: str) -> Any:
    """Return the report: each question with its help and its panels.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    _need_library()
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = []
    for section in sections:
        blocks += [
            wr.H2(text=section.title),
            wr.P(text=section.help),
            # Without names, a run set shows the report's own project.
            wr.PanelGrid(panels=[_plot(each) for each in section.panels], runsets=[wr.Runset()]),
        ]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"{project}: training runs",
        description="Made by rlpost dashboard wandb.",
        blocks=blocks,
    )


def publish(sections: Sequence[CurveSection], *, entity: str | None, project: str) -> list[str]:
    """Create both in W&B, and the project if it is new; return their addresses.

    ``entity`` is a user or team; None: the account's default.

    Raises:
        UserError: no login, no network, or W&B refuses.
    """
    if not has_key():
        raise UserError(
            "rlpost dashboard wandb needs a W&B login and none was found: set WANDB_API_KEY or "
            "run `wandb login`"
        )
    _need_library()
    import requests
    import wandb

    try:
        owner = entity or wandb.Api(timeout=30).default_entity
        if not owner:
            raise UserError("the W&B account has no default entity; name one with --entity")
        made_report = report(sections, entity=owner, project=project)
        made_report.save()  # first, because it creates the project if needed
        made_workspace = workspace(sections, entity=owner, project=project)
        made_workspace.save()
    except (wandb.errors.Error, requests.RequestException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        text = " ".join(str(error).split())
        raise UserError(
            f"W&B did not take the dashboard ({type(error).__name__}: {text}); check the network, "
            "the key and --entity"
        ) from error
    return [made_workspace.url, made_report.url]


def title_of(panel: Panel) -> str:
    """Return the title of a panel for runs with rewards of either kind."""
    return f"{panel.title} or {panel.graded.title.lower()}" if panel.graded else panel.title


def _plot(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=title_of(panel),
        x=STEP,
        y=[*panel.curves, *(panel.band or ())],
        metric_regex=None if panel.pattern is None else f"^{panel.pattern}$",
        plot_type="stacked-area" if panel.stacked else "line",
        log_y=True if panel.log_scale else None,
        smoothing_type="none",
    )


def _need_library() -> None:
    try:
        import wandb_workspaces  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise UserError(
            "rlpost dashboard wandb needs wandb-workspaces: pip install 'rlpost[tracking]'"
        ) from error
