"""Whose convention does a function follow?

Owns the recognition. Invariant: a function is never taken for another framework's because it
accepts every keyword: it is recognised by a parameter's name that only one framework uses, or
by ``verifier.contract``, or refused.
"""

from rlpost.errors import UserError
from rlpost.verifiers.contracts.adapter import Adapter, Contract
from rlpost.verifiers.contracts.openrlhf import OPENRLHF
from rlpost.verifiers.contracts.signature import Signature
from rlpost.verifiers.contracts.trl import TRL
from rlpost.verifiers.contracts.verl import VERL

ADAPTERS = {Contract.trl: TRL, Contract.verl: VERL, Contract.openrlhf: OPENRLHF}


def adapter_of(signature: Signature, *, contract: Contract, path: str) -> Adapter:
    """Return how to call a function.

    Raises:
        UserError: nobody can tell, or ``contract`` names another framework than the parameters.
    """
    names = signature.keywords.union(signature.positional_only)
    recognised = [adapter for adapter in ADAPTERS.values() if names & adapter.marks]
    if not recognised and "prompts" in names and "labels" not in names:
        recognised = [TRL]  # OpenRLHF's functions take prompts too, but never without labels
    if contract is Contract.auto:
        if len(recognised) == 1:
            return recognised[0]
        several = " and ".join(adapter.title for adapter in recognised)
        raise UserError(
            f"path: the parameters of {path}, {signature.text}, are "
            f"{f'those of {several} together' if several else 'those of no reward function'}; "
            f"write it as {_spellings()}; or say whose it is with "
            "verifier.contract=trl|verl|openrlhf"
        )
    chosen = ADAPTERS[contract]
    if recognised and chosen not in recognised:
        raise UserError(
            f"contract={contract.value} does not fit {path}, whose parameters "
            f"{signature.text} are those of {recognised[0].title}; leave verifier.contract out, "
            f"or write the function as {chosen.spelling}"
        )
    return chosen


def _spellings() -> str:
    return ", ".join(f"{adapter.spelling} ({adapter.title})" for adapter in ADAPTERS.values())
