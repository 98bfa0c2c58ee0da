"""What a step of a supervised stage reports of its data, with a model that learns nothing."""

from types import SimpleNamespace

from plain_sft import conversations
from supervised_runs import write_rows

from rlpost.config.compose import compose_stage
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.step_record import StepRecord
from rlpost.stages.supervised import likelihood
from rlpost.stages.supervised.likelihood import boot
from rlpost.stages.supervised.sft import prepare
from rlpost.tracking.files.examples import read_examples


class Policy:
    """A trained group that answers and forgets."""

    async def forward_backward(self, packed, objective):
        return {"sft/loss": 1.0}

    async def optim_step(self, step_id):
        return {}


def run_in(directory):
    async def start(roles, *, supervised, first):
        assert supervised is None, "without suites there are no generators"
        assert first is None, "nothing goes before the training"
        assert [role.name for role in roles] == ["trainer"]
        return [Policy()]

    return SimpleNamespace(
        start=start,
        keep=lambda name, kept: kept,
        progress=lambda what: None,
        step=0,
        directory=directory,
        tracker=SimpleNamespace(phase=lambda phase, detail="": None),
    )


async def test_a_step_tells_its_tokens_by_source_and_the_job_its_data(tmp_path, tiny_model):
    rows = [{"messages": each} for each in conversations(10)]
    overrides = [f"model.path={tiny_model}", "examples_per_step=8", "data.workers=0"]
    for name, some in (("chat", rows[:6]), ("code", rows[6:])):
        path = write_rows(tmp_path / f"{name}.jsonl", some)
        overrides += [f"+data.sources.{name}.path={path}"]
    cfg, _ = compose_stage(overrides, stage="sft")
    directory = RunDirectory(root=tmp_path / "run")
    directory.root.mkdir()
    plan = prepare(cfg, directory=directory)
    async with boot(plan, run_in(directory)) as job:
        record = StepRecord()
        await job.step(record)
    told = record.metrics
    by_source = [told[f"perf/trained_tokens/{name}"] for name in ("chat", "code")]
    assert min(by_source) > 0 and sum(by_source) == told["perf/trained_tokens"]
    assert [each.name for each in job.data] == ["chat", "code"]
    assert {each["source"] for each in read_examples(directory.examples)} == {"chat", "code"}


class Engines:
    """Of suites; notes when they are connected with the policy."""

    boot = None

    def __init__(self, order):
        self.order = order

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    def without_own(self, groups):
        return groups

    def scores(self, groups):
        self.order.append("engines are connected")


async def test_engines_leave_for_who_trains_before_the_policy_is_first_asked(monkeypatch):
    """Policy and reference are compared before the first step: engines may be on their GPUs."""
    order = []

    async def begun(plan, run, *, supervised):
        return [Policy()], None

    async def compared(*args, **options):
        order.append("compared")

    monkeypatch.setattr(likelihood, "SuiteEngines", lambda *args, **options: Engines(order))
    monkeypatch.setattr(likelihood, "begin", begun)
    monkeypatch.setattr(likelihood, "first_sequences", lambda splits: [])
    monkeypatch.setattr(likelihood, "require_same_start", compared)
    monkeypatch.setattr(likelihood, "_fit", lambda *args, **options: None)
    cfg = SimpleNamespace(cluster=None, trainer=None)
    objective = SimpleNamespace(kl_coefficient=0.1)
    plan = SimpleNamespace(
        cfg=cfg, suites=None, model_path="", objective=objective, has_adapter=True, splits=None
    )
    async with boot(plan, SimpleNamespace()):
        assert order == ["engines are connected", "compared"]
