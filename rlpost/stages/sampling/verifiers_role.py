"""The verifiers of a run as a role: what judges responses, and what it needs in memory.

Owns the role. Refuses to own which verifiers there are, and their actors (cluster/verifiers.py).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rlpost.cluster.verifiers import JudgedClusterConfig, spawn_verifiers
from rlpost.models.footprint import Footprint
from rlpost.stages.roles import Role, counted
from rlpost.verifiers.base import VerifierConfig

GIB = 2**30
VERIFIER_BYTES = 0.165 * GIB  # the service
VERIFIER_WORKER_BYTES = 0.025 * GIB  # each of its workers, before what a judge imports


def verifiers_footprint(cluster: JudgedClusterConfig, *, name: str) -> Footprint:
    """Return the memory of the services and their workers."""
    workers = cluster.verifier_actors * cluster.verifier_workers
    size_bytes = cluster.verifier_actors * VERIFIER_BYTES + workers * VERIFIER_WORKER_BYTES
    return Footprint(process=name, kept={"libraries": size_bytes})


def verifiers_role(
    cluster: JudgedClusterConfig,
    verifiers: Mapping[str, VerifierConfig],
    *,
    tokenizer: Any,
    name: str = "verifiers",
) -> Role:
    """Return the services that judge responses to prompts in the tokens of ``tokenizer``."""
    decode = partial(
        tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    workers = cluster.verifier_actors * cluster.verifier_workers
    return Role(
        name=name,
        processes=counted(workers, "verifier worker"),
        actors=(),
        memory=lambda work: [verifiers_footprint(cluster, name=name)],
        spawn=partial(spawn_verifiers, cfg=cluster, configs=verifiers, decode=decode),
    )
