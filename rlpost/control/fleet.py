"""Which generators exist and which state each is in.

Owns the state of every member. Refuses to own processes (cluster/) and versions (weights/).
Invariants: only a healthy member takes requests; a new process becomes healthy only by a
completed push, and only the incarnation that took part in it. Pure.

    restarting -> stale -> healthy <-> suspect -> dead -> restarting
"""

from dataclasses import dataclass
from enum import Enum


class Health(Enum):
    """The state of a member's process, which decides what it may be asked."""

    restarting = "restarting"  # its process is starting
    stale = "stale"  # up, without the current weights: takes pushes, no requests
    healthy = "healthy"  # takes requests and pushes
    suspect = "suspect"  # missed a ping or failed a request: gets no requests until it answers
    dead = "dead"  # to be killed and restarted


_UP = (Health.stale, Health.healthy, Health.suspect)
_PUSHED_TO = (Health.stale, Health.healthy)


@dataclass(kw_only=True)
class Member:
    """One generator, over all its incarnations."""

    name: str
    health: Health = Health.restarting
    incarnation: int = 0
    version: int = 0  # last one it finished syncing
    missed: int = 0  # pings in a row
    restarts: int = 0
    failed_boots: int = 0  # in a row
    reason: str = ""  # why it is suspect or dead


class Fleet:
    """Example::

    fleet = Fleet(["generator 0"])
    fleet.booted("generator 0")
    ticket = fleet.syncable()
    fleet.synced("generator 0", incarnation=ticket["generator 0"], version=1)
    assert fleet.serving() == ["generator 0"]
    """

    def __init__(self, names: list[str], *, missed_until_dead: int = 3) -> None:
        self._missed_until_dead = missed_until_dead
        self.members = {name: Member(name=name) for name in names}
        self._left: dict[str, int] = {}  # last incarnation of the members that were removed
        self.changes = 0  # grows whenever a member comes, goes or gets another health

    def serving(self) -> list[str]:
        """Names of the members that take requests."""
        return self._in(Health.healthy)

    def dead(self) -> list[str]:
        """Names of the members to be killed and restarted."""
        return self._in(Health.dead)

    def stale(self) -> list[str]:
        """Names of the members that are up and lack the current weights."""
        return self._in(Health.stale)

    def pingable(self) -> list[str]:
        """Names of the members whose process should answer."""
        return self._in(*_UP)

    def syncable(self) -> dict[str, int]:
        """Names of the members that can take part in a push, with their incarnation."""
        return {name: self.members[name].incarnation for name in self._in(*_PUSHED_TO)}

    def up(self) -> dict[str, int]:
        """Names of the members whose process is up, with their incarnation."""
        return {name: self.members[name].incarnation for name in self._in(*_UP)}

    def booting(self) -> list[str]:
        """Names of the members whose process is starting."""
        return self._in(Health.restarting)

    def behind(self, version: int) -> list[str]:
        """Names of the members that serve, or would serve, weights older than ``version``."""
        known = self._in(Health.healthy, Health.suspect)
        return [name for name in known if self.members[name].version < version]

    def _in(self, *healths: Health) -> list[str]:
        return [m.name for m in self.members.values() if m.health in healths]

    def _current(self, name: str, incarnation: int) -> Member | None:
        """The member, unless it left or another process has its name by now."""
        member = self.members.get(name)
        return member if member is not None and member.incarnation == incarnation else None

    def _become(self, member: Member, health: Health) -> None:
        self.changes += member.health is not health
        member.health = health

    def add(self, name: str) -> None:
        """Add a member whose process is about to start."""
        assert name not in self.members, name
        self.members[name] = Member(name=name, incarnation=self._left.get(name, -1) + 1)
        self.changes += 1

    def remove(self, name: str) -> None:
        """Remove a member for good."""
        self._left[name] = self.members.pop(name).incarnation
        self.changes += 1

    def booted(self, name: str) -> None:
        """Note that its process is up, with the weights on disk."""
        member = self.members[name]
        assert member.health is Health.restarting, member
        self._become(member, Health.stale)
        member.failed_boots = 0

    def synced(self, name: str, *, incarnation: int, version: int) -> bool:
        """Note that it finished syncing ``version``; return whether it serves now.

        False also when another process has its name by now.
        """
        member = self._current(name, incarnation)
        if member is None:
            return False
        assert version >= member.version, (version, member)
        member.version, member.missed, member.reason = version, 0, ""
        if member.health in _UP:
            self._become(member, Health.healthy)
        return member.health is Health.healthy

    def out_of_sync(self, name: str) -> None:
        """Note that it took no part in a push."""
        member = self.members.get(name)
        if member is not None and member.health in (Health.healthy, Health.suspect):
            self._become(member, Health.stale)

    def answered(self, name: str, *, incarnation: int) -> None:
        """Note that it answered a ping: a suspect serves again."""
        member = self._current(name, incarnation)
        if member is None:
            return
        member.missed = 0
        if member.health is Health.suspect:
            self._become(member, Health.healthy)

    def missed(self, name: str, *, incarnation: int, reason: str) -> None:
        """Note that it missed a ping; after several in a row it counts as dead."""
        member = self._current(name, incarnation)
        if member is None or member.health not in _UP:
            return
        member.missed += 1
        member.reason = reason
        if member.missed >= self._missed_until_dead:
            self._become(member, Health.dead)
        elif member.health is Health.healthy:
            self._become(member, Health.suspect)

    def suspected(self, name: str, *, incarnation: int, reason: str) -> None:
        """Note that a request got no answer; the next ping decides."""
        member = self._current(name, incarnation)
        if member is not None and member.health is Health.healthy:
            self._become(member, Health.suspect)
            member.reason = reason

    def died(self, name: str, *, incarnation: int, reason: str) -> None:
        """Note that its process is gone or useless."""
        member = self._current(name, incarnation)
        if member is not None and member.health in _UP:
            self._become(member, Health.dead)
            member.reason = reason

    def restarting(self, name: str) -> int:
        """Note that a new process is being started; return its incarnation."""
        member = self.members[name]
        assert member.health in (Health.dead, Health.restarting), member
        member.incarnation += 1
        member.restarts += 1
        member.version = member.missed = 0
        self._become(member, Health.restarting)
        return member.incarnation

    def failed_to_boot(self, name: str, reason: str) -> None:
        """Note that the new process did not come up."""
        member = self.members.get(name)
        if member is not None and member.health is Health.restarting:
            member.reason = reason
            member.failed_boots += 1
            self._become(member, Health.dead)

    def describe(self) -> str:
        """Return one line per member, for logs and dumps."""
        return "\n".join(
            f"{m.name}: {m.health.value}, version {m.version}, {m.restarts} restarts"
            + (f" ({m.reason})" if m.reason else "")
            for m in self.members.values()
        )
