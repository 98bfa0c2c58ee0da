"""In which order the parts of an RL run are connected."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

from rlpost.config.compose import compose_stage
from rlpost.stages.rl import boot as module


async def test_engines_leave_for_who_trains_before_the_policy_is_first_asked(
    monkeypatch, tiny_model, tmp_path
):
    """Policy and reference are compared before the first step: engines may be on their GPUs."""
    order = []
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1?", "answer": "1"}\n')
    cfg, _ = compose_stage(
        [f"model.path={tiny_model}", f"data.train={rows}", "algorithm.kl.coefficient=0.1"],
        stage="rl",
    )

    class Own:
        def __init__(self):
            self.groups = {"trainer": SimpleNamespace()}

        def parts(self, **options):
            order.append("engines are connected")
            return SimpleNamespace(run=SimpleNamespace(keep=lambda name, kept: None))

    @asynccontextmanager
    async def own_samples(plan, run):
        yield Own()

    async def compared(*args, **options):
        order.append("compared")

    monkeypatch.setattr(module, "own_samples", own_samples)
    monkeypatch.setattr(module, "require_same_start", compared)
    monkeypatch.setattr(module, "probe_of", lambda *args: [])
    sampling = SimpleNamespace(train_set=None)
    plan = SimpleNamespace(cfg=cfg, sampling=sampling, has_adapter=True, model_path=str(tiny_model))
    async with module.boot(plan, SimpleNamespace()):
        assert order == ["engines are connected", "compared"]
