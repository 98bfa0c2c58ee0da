"""A stage of a pipeline -> the words of a command line.

Owns the translation. Refuses to own what the options mean. Invariants: what a stage of a pipeline
runs is what a person could type; the same stage gives the same words.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.config.options import known_keys
from rlpost.config.quoting import quoted
from rlpost.errors import UserError
from rlpost.pipeline.spec import STAGE_PREFIX, StageSpec, SuiteSpec

BUNDLED = "bundled:"
# Values that hydra reads as the text they are.
_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*|[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_WORDS = ("true", "false", "null", "none", "inf", "nan", "yes", "no", "on", "off")

Resolve = Callable[[str], Path]  # id of a stage -> what it makes


def stage_words(
    stage: StageSpec,
    *,
    start: Sequence[str],
    resolve: Resolve,
    run_dir: Path,
    name: str,
    seed: int,
    common: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> list[str]:
    """Return the overrides with which ``rlpost <stage.run>`` does what the stage says.

    Args:
        stage: of the pipeline.
        start: the models that it starts from, as ``model.path`` takes them.
        resolve: says where another stage's result is.
        run_dir: where its run lives.
        name: of its run.
        seed: unless the stage sets one.
        common: options of all stages of that command.
        changes: options of this attempt, over the stage's own.

    Raises:
        UserError: the stage's command has no place for what it is given.
    """
    known = known_keys(stage.run)
    words = {"run.dir": str(run_dir), "run.name": name, "resume": "auto", "seed": seed}
    words |= common
    words |= _start(stage, start, known)
    if stage.teacher is not None:
        if "teacher.path" not in known:
            raise UserError(f"{stage.id}.teacher: rlpost {stage.run} has no teacher; leave it out")
        words["teacher.path"] = str(resolve(stage.teacher))
    words |= _data(stage, resolve, known)
    words |= {key: _resolved(value, resolve) for key, value in stage.options.items()}
    words |= changes
    # Not every command has them: a merge is complete or absent, so it is never resumed.
    kept = {k: v for k, v in words.items() if k not in ("seed", "resume") or k in known}
    return [f"{key}={as_text(value)}" for key, value in kept.items()]


def _start(stage: StageSpec, start: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    if len(start) == 1:
        return {"model.path": start[0]}
    if "merge.models" not in known:
        raise UserError(
            f"{stage.id}.from: rlpost {stage.run} starts from one model, got {len(start)}; give "
            "one id, or merge them first with run: merge"
        )
    return {"merge.models": list(start)}


def _data(stage: StageSpec, resolve: Resolve, known: Sequence[str]) -> dict[str, Any]:
    """Return the ``data.*`` options; several sources, or a replay, become a mixture."""
    data = dict(stage.data)
    train, replay = data.pop("train", None), data.pop("replay", None)
    words = {f"data.{key}": _resolved(value, resolve) for key, value in data.items()}
    sources = [train] if isinstance(train, str) else list(train or ())
    named = [_source(each, resolve) for each in sources]
    if len(named) == 1 and replay is None:
        return {"data.train": named[0], **words}
    if not named:
        return words
    if "data.sources" not in {key.partition(".NAME")[0] for key in known}:
        raise UserError(
            f"{stage.id}.data: rlpost {stage.run} reads one source of prompts; give train one "
            "source, and leave replay out"
        )
    share = 1.0 - (replay["fraction"] if replay else 0.0)
    for number, each in enumerate(named, start=1):
        words[f"data.sources.train{number}.path"] = each
        if replay:
            words[f"data.sources.train{number}.weight"] = share / len(named)
    if replay:
        words["data.sources.replay.path"] = _source(replay["source"], resolve)
        words["data.sources.replay.weight"] = replay["fraction"]
    return words


def suite_words(
    suites: Sequence[SuiteSpec],
    *,
    model: str,
    run_dir: Path,
    seed: int,
    common: Mapping[str, Any],
) -> list[str]:
    """Return the overrides with which ``rlpost evaluate`` scores a model on suites of one group."""
    first = suites[0]
    words: dict[str, Any] = {"run.dir": str(run_dir), "run.name": group_name(suites)}
    words |= common
    words |= {
        "model.path": model,
        "resume": "auto",
        "seed": seed,
        "samples": first.samples,
        "temperature": first.sampling_temperature,
        "max_tokens": first.max_tokens,
        "suites": [each.data.removeprefix(BUNDLED) for each in suites if is_plain_bundle(each)],
    }
    for suite in suites:
        if not is_plain_bundle(suite):
            words["data.heldout"] = suite.data
            if suite.size is not None:
                words["data.heldout_size"] = suite.size
            words["verifier"] = suite.verifier
            words |= {f"verifier.{key}": value for key, value in suite.verifier_options.items()}
    return [f"{key}={as_text(value)}" for key, value in words.items()]


def groups_of(suites: Sequence[SuiteSpec]) -> list[list[SuiteSpec]]:
    """Return which suites are scored in one evaluation: those with the same sampling.

    An evaluation has any number of bundled suites, and one source beside them.
    """
    groups: list[list[SuiteSpec]] = []
    for suite in sorted(suites, key=is_plain_bundle):
        alike = (
            group
            for group in groups
            if _sampling(group[0]) == _sampling(suite)
            and (is_plain_bundle(suite) or all(map(is_plain_bundle, group)))
        )
        group = next(alike, None)
        if group is None:
            groups.append([suite])
        else:
            group.append(suite)
    return groups


def group_name(suites: Sequence[SuiteSpec]) -> str:
    """Return the ``run.name`` of an evaluation."""
    return "+".join(sorted(each.name for each in suites))[:100]


def _sampling(suite: SuiteSpec) -> tuple[Any, ...]:
    return suite.samples, suite.sampling_temperature, suite.max_tokens


def is_plain_bundle(suite: SuiteSpec) -> bool:
    """Whether it is a bundled suite, whole, with the verifier of its own."""
    return suite.data.startswith(BUNDLED) and suite.verifier is None and suite.size is None


def _source(name: str, resolve: Resolve) -> str:
    if name.startswith(STAGE_PREFIX):
        return f"file:{resolve(name.removeprefix(STAGE_PREFIX))}"
    return name


def _resolved(value: Any, resolve: Resolve) -> Any:
    if isinstance(value, str) and value.startswith(STAGE_PREFIX):
        return str(resolve(value.removeprefix(STAGE_PREFIX)))
    if isinstance(value, list):
        return [_resolved(each, resolve) for each in value]
    return value


def as_text(value: Any) -> str:
    """Return a value of YAML as hydra's grammar writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if plain else quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, Sequence):
        return f"[{','.join(map(as_text, value))}]"
    return str(value)
