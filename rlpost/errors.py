"""The exceptions of the project; who can fix the cause decides the class.

Owns the kinds of failure that one package reports to another. Refuses to own retry policy
(control/) and presentation (cli/). Invariant: a failure is never turned into a number.

- ``UserError``: the user can fix it; exit code 2 and one paragraph.
- ``DataError``: a row, sample or file is bad, so retrying will not help; it has an address.
- ``InfrastructureError``: a process, link or disk failed; retrying elsewhere may help.
- ``RunFailed``: the run cannot continue; exit code 1.
"""


class UserError(ValueError):
    """A setting or input that the user can fix; the message has field, value, rule and fix.

    Example: ``UserError("loss.clip_low must be in (0, 1), got 2.0; DAPO uses 0.2")``
    """


class DataError(UserError):
    """A bad row or file; the message starts with its address (``train.jsonl:17``)."""


class NothingToPrefer(UserError):
    """No sampled responses of a step differ in reward, so that none can be preferred."""


class InfrastructureError(RuntimeError):
    """A process, link or disk failed; the same request may succeed elsewhere."""


class ProcessDied(InfrastructureError):
    """A process is dead, or cannot be used any more; it must be replaced by a new one."""


class NoAnswer(InfrastructureError):
    """A process missed a deadline: it hangs, is unreachable or is overloaded; it may recover."""


class GroupLost(ProcessDied):
    """Ranks of a trained model died, so all steps since the last checkpoint are lost."""


class RequestAborted(InfrastructureError):
    """A request was cancelled on purpose; no process is at fault."""


class WeightPushError(InfrastructureError):
    """A weight push was rejected; the generators keep serving their old version."""


class PushEnded(WeightPushError):
    """A party of a push heard that it is over, because another one failed."""

    _SIGN = "the push was ended elsewhere: "

    def __init__(self, why: str) -> None:
        super().__init__(self._SIGN + why.replace(self._SIGN, ""))

    @classmethod
    def or_refusal(cls, text: str) -> WeightPushError:
        """Return what a text says that may have passed through a process which knows no classes."""
        return cls(text.partition(cls._SIGN)[2]) if cls._SIGN in text else WeightPushError(text)


class RunFailed(RuntimeError):
    """The run cannot continue; exit code 1. Subclasses give the reason."""


class RunStuck(RunFailed):
    """Nothing was finished for too long; the state of all processes was dumped to a file."""


class NothingLearned(RunFailed):
    """Too many steps updated no model, so the run would export the weights it began with."""


class VerifiersFailing(RunFailed):
    """Too many responses could not be judged."""
