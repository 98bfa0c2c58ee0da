"""What is refused of a stage by the files that are there."""

from pathlib import Path

import pytest

from rlpost.errors import UserError
from rlpost.pipeline.spec import PipelineSpec, Prune, StageSpec
from rlpost.stages.pipeline.checks import require_layers


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
