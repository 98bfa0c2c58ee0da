"""The table that a merge prints: how alike the models are, and what was kept of them."""

from itertools import combinations

from rlpost.merging.measures import MergeMeasures

REPORT = "merge.json"  # beside the export: what the table says, and more


def measured_table(measures: MergeMeasures) -> str:
    """Return the table, with a sentence on the signs below it."""
    models = measures.models
    what = "weights" if measures.base is None else "task vector"
    rows = [["", what, "norm", *(["kept"] if measures.kept else [])]]
    rows[0] += [f"cosine {index}" for index in range(1, len(models) + 1)] if models[1:] else []
    for index, model in enumerate(models, start=1):
        row = [str(index), model, f"{measures.norm(model):.4g}"]
        if measures.kept:
            density = measures.density(model)
            row.append("" if density is None else f"{density:.4f}")
        if len(models) > 1:
            row += [_text(measures.cosine(model, other)) for other in models]
        rows.append(row)
    lines = _aligned(rows)
    if measures.sign_conflicts is not None:
        lines.append(f"signs differ in {measures.sign_conflicts:.1%} of the entries")
    if measures.base is None and any(
        (measures.cosine(*pair) or 0) > 0.9995 for pair in combinations(models, 2)
    ):
        lines.append(
            "the weights point the same way; with model.path=BASE the report compares what the "
            "models learned"
        )
    return "\n".join(lines)


def _text(cosine: float | None) -> str:
    return "-" if cosine is None else f"{cosine:.4f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
