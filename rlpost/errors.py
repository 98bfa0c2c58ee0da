"""The error model: who can fix it decides the class.

Owns the three kinds of failure that cross rooms. Refuses to own retry policy (control/)
and presentation (cli/). Invariant: a failure is never turned into a number.

- ``UserError``  the person at the keyboard can fix it: exit code 2, one paragraph.
- ``InfrastructureError``  a process, link or disk failed; retrying elsewhere may help.
- ``DataError``  a row, sample or file is bad; retrying will not help. It has an address.
"""


class UserError(ValueError):
    """A setting or input the user can fix: says field, value, rule and way out.

    Example: ``UserError("loss.clip_low must be in (0, 1), got 2.0; DAPO uses 0.2")``
    """


class DataError(UserError):
    """A bad row or file; the message starts with its address (``train.jsonl:17``)."""


class InfrastructureError(RuntimeError):
    """A process, link or disk failed; the same request may succeed elsewhere."""


class ProcessDied(InfrastructureError):
    """A process is gone, or alive and useless: only a new one helps."""


class NoAnswer(InfrastructureError):
    """A process missed a deadline: hung, cut off or overloaded; it may recover."""


class GroupLost(ProcessDied):
    """Ranks of a trained model are gone, and with them what they learned since they saved."""


class RequestAborted(InfrastructureError):
    """A request was thrown away on purpose; nobody is to blame."""


class WeightPushError(InfrastructureError):
    """A weight push was refused; the generators keep serving their old version."""


class RunFailed(RuntimeError):
    """The run cannot go on: exit code 1 with a typed reason."""


class RunStuck(RunFailed):
    """Nothing was finished for too long; what everyone was doing was written down."""


class NothingLearned(RunFailed):
    """Step after step updated no model; the run would end with what it began with."""


class VerifiersFailing(RunFailed):
    """Too many responses could not be judged."""
