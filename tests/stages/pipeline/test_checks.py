"""What is refused of a stage by the files that are there."""

from pathlib import Path

import pytest

from rlpost.errors import UserError
from rlpost.pipeline.gate import parse_gate
from rlpost.pipeline.spec import PipelineSpec, Prune, StageSpec
from rlpost.stages.pipeline.checks import check_stage, require_layers


def pruned(name, of, layers):
    return StageSpec(id=name, run="sft", start=(of,), prune=Prune(of=of, layers=layers))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([pruned("one", "base", 1)], None),
        ([pruned("one", "base", 2)], "below the model's number of layers, 2, got 2"),
        ([pruned("one", "base", 1), pruned("two", "one", 1)], "below the 1 layers of one, got 1"),
    ],
)
def test_a_pruned_start_has_fewer_layers_than_its_parent(tiny_model, stages, said):
    spec = PipelineSpec(name="p", base=str(tiny_model), stages=tuple(stages))

    def check():
        require_layers(spec, stages[-1], base=str(tiny_model), file=Path("f.yaml"))

    if said is None:
        check()
    else:
        with pytest.raises(UserError, match=said):
            check()


def test_a_leak_is_looked_for_only_where_a_suite_has_prompts():
    gate = parse_gate("leaked_into_heldout == 0", field="gate")
    stage = StageSpec(id="rows", run="evaluate", output="dataset", gates=(gate,))
    spec = PipelineSpec(name="p", base="m", stages=(stage,))
    with pytest.raises(UserError, match=r"prompts of gates\.suites, of which there are none"):
        check_stage(spec, stage, Path("f.yaml"))
