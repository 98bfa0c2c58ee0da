"""What the cost and the model card say of the data that a stage learns from.

Owns the tokens by source and the sources with the hash of their content. Refuses to own their form
(control/cost.py, models/origin.py).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from rlpost.data.example import Example
from rlpost.data.sources.load import hub_id
from rlpost.data.splits import Splits
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.models.origin import DataUsed


def trained_tokens_by_source(drawn: Sequence[Example]) -> dict[str, float]:
    """Return ``perf/trained_tokens/<source>``: the tokens that the masks of drawn rows mark."""
    counts: Counter[str] = Counter()
    for each in drawn:
        counts[each.uid.partition(":")[0]] += int(each.trained.sum())
    return {f"perf/trained_tokens/{name}": float(count) for name, count in counts.items()}


def data_used(cfg: SupervisedDataConfig, splits: Splits) -> list[DataUsed]:
    """Return the sources of a run with their rows and the hash of their content."""
    named = cfg.named_sources("data")
    used = [
        DataUsed(
            split="train",
            name=name,
            source=named[name].path,
            num_rows=len(corpus),
            fingerprint=corpus.fingerprint,
            hub_id=hub_id(named[name].path),
        )
        for name, corpus in splits.train.corpora.items()
    ]
    for name, corpus in splits.heldout.items():
        source = cfg.heldout or named[name].path
        used.append(
            DataUsed(
                split="heldout",
                name=name,
                source=source,
                num_rows=len(corpus),
                fingerprint=_fingerprint(corpus.all_examples()),
                hub_id=hub_id(source),
            )
        )
    return used


def _fingerprint(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for each in examples:
        digest.update(len(each).to_bytes(8, "little") + each.ids.tobytes() + each.trained.tobytes())
    return digest.hexdigest()[:16]
