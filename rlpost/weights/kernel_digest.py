"""What the kernels of an engine hold, in a few words, and which engines differ from the others.

Owns the comparison. Refuses to own which tensors there are (vllm_kernels.py), the sums of a tensor
(word_sums.py) and what follows from a difference (bus.py). Invariants: engines are compared only
with engines whose kernels are laid out alike; nobody is cleared while as many contradict it as
agree with it.

A probe compares log-probs of trainer and engine, and its bound must allow for two implementations
in a reduced precision. Two engines with the same kernels hold the same bits, whatever the
precision, so a single wrong weight shows here.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

Agreed = Mapping[tuple[str, ...], tuple[str, ...]]  # layouts -> contents, of all workers


@dataclass(frozen=True, kw_only=True)
class KernelDigest:
    """Of one engine, an entry for each of its workers in their order.

    Example: ``KernelDigest(layouts=("9f0c...",), contents=("51b2...",))``
    """

    layouts: tuple[str, ...]  # names, shapes and formats of the tensors
    contents: tuple[str, ...]  # their bits


def differing(digests: Mapping[str, KernelDigest], *, right: Agreed) -> dict[str, str]:
    """Return which engines do not hold what the others hold, and what is known of it.

    Args:
        digests: engine -> what it says.
        right: what was agreed on before; the majority decides where it says nothing.
    """
    found: dict[str, str] = {}
    for layouts in {digest.layouts for digest in digests.values()}:
        alike = {name: d.contents for name, d in digests.items() if d.layouts == layouts}
        most = right.get(layouts) or _majority(list(alike.values()))
        for name, contents in alike.items():
            if most is None:
                found[name] = f"differ among {sorted(alike)}, and no majority holds the same"
            elif contents != most:
                pairs = enumerate(zip(contents, most, strict=True))
                workers = [worker for worker, (mine, theirs) in pairs if mine != theirs]
                found[name] = f"differ from those of the others in worker {workers}"
    return found


def agreed(digests: Mapping[str, KernelDigest]) -> Agreed:
    """Return what engines hold that do not differ."""
    return {digest.layouts: digest.contents for digest in digests.values()}


def _majority(contents: list[tuple[str, ...]]) -> tuple[str, ...] | None:
    commonest, times = Counter(contents).most_common(1)[0]
    return commonest if 2 * times > len(contents) else None
