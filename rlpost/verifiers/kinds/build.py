"""A verifier's config -> the judge that it describes.

Owns the choice by ``kind``, and abstaining where a kind cannot judge the row.
"""

from collections.abc import Sequence
from dataclasses import replace

from rlpost.errors import UserError
from rlpost.registry import Entry
from rlpost.verifiers.base import DeclaredJudge, Judge, Sample, Score, VerifierConfig
from rlpost.verifiers.kinds import verifiers


def build(cfg: VerifierConfig) -> Judge:
    """Return the judge that ``cfg`` describes; runs user code, so call it in a sandbox.

    Raises:
        UserError: unknown kind, a config of another kind, or a setting the kind refuses.
    """
    judge: Judge = entry_of(cfg).target(cfg)
    return _abstaining(judge, cfg) if cfg.abstains else judge


def entry_of(cfg: VerifierConfig) -> Entry:
    """Return the registered kind that ``cfg`` configures.

    Raises:
        UserError: unknown kind, or a config of another kind.
    """
    entry = verifiers.get(cfg.kind)
    if not isinstance(cfg, entry.config):
        raise UserError(
            f"kind={cfg.kind} takes a {entry.config.__name__}, got {type(cfg).__name__}; "
            "choose the kind with verifier=KIND instead of setting verifier.kind"
        )
    return entry


def _abstaining(judge: Judge, cfg: VerifierConfig) -> Judge:
    """Return a judge that has no opinion of responses to a row that it cannot judge."""

    def alone(sample: Sample) -> Score:
        return None if cfg.unjudgeable(sample.columns) else judge(sample)

    if not isinstance(judge, DeclaredJudge):
        return alone
    all_together = judge.together

    def together(samples: Sequence[Sample]) -> Sequence[Score | Exception]:
        if samples and cfg.unjudgeable(samples[0].columns):  # they answer one row
            return [None] * len(samples)
        return all_together(samples)

    return replace(judge, together=together)
