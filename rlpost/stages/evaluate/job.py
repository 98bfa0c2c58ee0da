"""An evaluation: every item that is not answered yet, by one model after the other.

Owns the order and the rows. Refuses to own generators (sampling/generation.py), how they come and
go (boot.py), scores (results.py) and the file (answers_file.py). Invariants: an item is answered
once, however often the evaluation is interrupted; the seeds of an item depend on the run's seed and
the item alone, so both models answer under the same ones.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from rlpost.errors import RunFailed, UserError
from rlpost.evaluation.answer import Answer
from rlpost.rollout.collector import Collector, request_seed
from rlpost.stages.driver import guarded
from rlpost.stages.evaluate.answers_file import AnswersFile, ItemKey
from rlpost.stages.evaluate.plan import EvaluatePlan, Examinee
from rlpost.stages.sampling.examiner import Examiner, failure_of
from rlpost.stages.sampling.judged_source import JudgedSource
from rlpost.tracking.tracker import Phase, Trackers
from rlpost.types import Episode, Group, Prompt


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model whose engines are up."""

    collector_of: Callable[[JudgedSource], Collector]  # starts the judges of a source
    guard: Callable[[], Coroutine[Any, Any, None]]  # looks after the engines until cancelled


Open = Callable[[Examinee], AbstractAsyncContextManager[OpenModel]]


def open_items(plan: EvaluatePlan, file: AnswersFile) -> dict[tuple[str, str], list[Prompt]]:
    """Return the prompts that are not answered yet, by model and data set.

    Raises:
        UserError: the file has answers to other prompts, or under other seeds.
    """
    found = {}
    for examinee in plan.examinees:
        for source in plan.sources:
            prompts = prompts_of(examinee, source)
            keys = [item_key(examinee, source, prompt) for prompt in prompts]
            for key, prompt in zip(keys, prompts, strict=True):
                _require_same(file, key, prompt, seed=plan.cfg.seed)
            found[examinee.role, source.name] = [
                prompt for key, prompt in zip(keys, prompts, strict=True) if key not in file.items
            ]
    return found


def prompts_of(examinee: Examinee, source: JudgedSource) -> list[Prompt]:
    """Return the prompts of a source in the tokens of a model."""
    rows = examinee.prompts[source.name]
    return [rows.prompt(0, row) for row in range(len(rows))]


def item_key(examinee: Examinee, source: JudgedSource, prompt: Prompt) -> ItemKey:
    """Return what the answers to a prompt are found by."""
    return (examinee.role, source.name, prompt.uid)


def _require_same(file: AnswersFile, key: ItemKey, prompt: Prompt, *, seed: int) -> None:
    answers = file.items.get(key)
    if answers is None:
        return
    if (answers[0].prompt, answers[0].seed) != (prompt.text, request_seed(seed, prompt.uid)):
        raise UserError(
            f"run.name: {file.path} has an answer to another prompt than {prompt.address}: the "
            "data changed since; choose another run.name"
        )


@dataclass(kw_only=True)
class Evaluation:
    """Answers what is not answered yet."""

    plan: EvaluatePlan
    file: AnswersFile
    tracker: Trackers
    open: Open

    async def answer(self) -> dict[ItemKey, str]:
        """Answer every open item; return those that could not be, with the reasons.

        Raises:
            CancelledError: somebody asked it to stop; what was judged by then is in the file.
            RunFailed: the budget of failures is used up, or nothing could be answered.
        """
        waiting = open_items(self.plan, self.file)
        failed: dict[ItemKey, str] = {}
        for examinee in self.plan.examinees:
            todo = [each for each in self.plan.sources if waiting[examinee.role, each.name]]
            if not todo:
                continue
            self.tracker.phase(Phase.setting_up, f"starting generators of {examinee.path}")
            async with self.open(examinee) as model:
                failed |= await guarded(self._ask_all(examinee, todo, model), by=model.guard())
        if failed and not self.file.items:
            (_, dataset, uid), reason = next(iter(failed.items()))
            raise RunFailed(
                f"none of {len(failed)} items could be answered, first {uid} of {dataset} "
                f"({reason}); the same command tries them again"
            )
        return failed

    async def _ask_all(
        self, examinee: Examinee, sources: Sequence[JudgedSource], model: OpenModel
    ) -> dict[ItemKey, str]:
        failed: dict[ItemKey, str] = {}
        waiting = open_items(self.plan, self.file)
        for source in sources:
            prompts = waiting[examinee.role, source.name]
            failed |= await self._ask(examinee, source, model.collector_of(source), prompts)
        return failed

    async def _ask(
        self,
        examinee: Examinee,
        source: JudgedSource,
        collector: Collector,
        prompts: Sequence[Prompt],
    ) -> dict[ItemKey, str]:
        cfg, total = self.plan.cfg, len(examinee.prompts[source.name])
        examiner = Examiner(
            collector=collector, sampling=cfg.sampling, samples=cfg.samples, seed=cfg.seed
        )
        left = len(prompts)

        def show() -> None:
            done = f"{total - left} of {total} items of {source.name}"
            self.tracker.phase(Phase.evaluating, f"{examinee.role}: {done}")

        def judged(group: Group) -> None:
            nonlocal left
            self.file.add([self._row(examinee, source, group.prompt, e) for e in group.episodes])
            left -= 1
            show()

        show()
        examination = await examiner.examine(prompts, judged=judged)
        return {
            (examinee.role, source.name, uid): reason for uid, reason in examination.failed.items()
        }

    def _row(
        self, examinee: Examinee, source: JudgedSource, prompt: Prompt, episode: Episode
    ) -> Answer:
        speaker = source.speaker
        said = None if speaker is None else speaker.stated_answer(episode.text, prompt.columns)
        return Answer(
            model=examinee.role,
            dataset=source.name,
            part=_part_of(prompt.columns),
            uid=prompt.uid,
            sample=episode.sample,
            seed=episode.seed,
            prompt=prompt.text,
            response=episode.text,
            answer=said,
            reward=episode.reward,
            error=failure_of(episode),
            verdicts=tuple(
                {"verifier": v.verifier, "reward": v.reward, "error": v.error}
                for v in episode.verdicts
            ),
            finish_reason=episode.finish_reason,
            num_tokens=episode.num_sampled if episode.trajectories else None,
        )


def _part_of(columns: Mapping[str, object]) -> str:
    """Return the part of its data set that a row says it belongs to: ``kind``, or verl's name."""
    for name in ("kind", "data_source"):
        if isinstance(value := columns.get(name), str):
            return value
    return ""
