"""Which generators exist and what each may be asked.

Owns the life of every member. Refuses to own processes (cluster/) and versions (weights/).
Invariants: only a healthy member takes requests; a new process becomes healthy by a completed
push alone, and only the incarnation that took part in it. Pure.

    restarting -> stale -> healthy <-> suspect -> dead -> restarting
"""

from dataclasses import dataclass
from enum import Enum


class Health(Enum):
    """What a member may be asked."""

    restarting = "restarting"  # its process comes up
    stale = "stale"  # up, without the current weights: takes pushes, no requests
    healthy = "healthy"  # takes requests and pushes
    suspect = "suspect"  # missed a ping or failed a request: no new ones until it answers
    dead = "dead"  # to be killed and restarted


_UP = (Health.stale, Health.healthy, Health.suspect)


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
        self._left: dict[str, int] = {}  # last incarnation of those that left

    def serving(self) -> list[str]:
        """Names of those that take requests."""
        return [m.name for m in self.members.values() if m.health is Health.healthy]

    def dead(self) -> list[str]:
        """Names of those to be killed and restarted."""
        return [m.name for m in self.members.values() if m.health is Health.dead]

    def stale(self) -> list[str]:
        """Names of those that are up and lack the current weights."""
        return [m.name for m in self.members.values() if m.health is Health.stale]

    def pingable(self) -> list[str]:
        """Names of those whose process should answer."""
        return [m.name for m in self.members.values() if m.health in _UP]

    def syncable(self) -> dict[str, int]:
        """Those that can take part in a push, with the incarnation that would."""
        return {
            m.name: m.incarnation
            for m in self.members.values()
            if m.health in (Health.stale, Health.healthy)
        }

    def behind(self, version: int) -> list[str]:
        """Names of those that serve, or would serve, something older than ``version``."""
        return [
            m.name
            for m in self.members.values()
            if m.health in (Health.healthy, Health.suspect) and m.version < version
        ]

    def add(self, name: str) -> None:
        """A new member; its process is about to start."""
        assert name not in self.members, name
        self.members[name] = Member(name=name, incarnation=self._left.get(name, -1) + 1)

    def remove(self, name: str) -> None:
        """A member left for good."""
        member = self.members.pop(name)
        self._left[name] = member.incarnation

    def booted(self, name: str) -> None:
        """Its process is up, with the weights of the disk."""
        member = self.members[name]
        assert member.health is Health.restarting, member
        member.health, member.failed_boots = Health.stale, 0

    def synced(self, name: str, *, incarnation: int, version: int) -> bool:
        """It finished syncing ``version``; False when another process has its name by now."""
        member = self.members.get(name)
        if member is None or not self._same(member, incarnation):
            return False
        assert version >= member.version, (version, member)
        member.version, member.missed, member.reason = version, 0, ""
        if member.health in _UP:
            member.health = Health.healthy
        return member.health is Health.healthy

    def _same(self, member: Member, incarnation: int) -> bool:
        return member.incarnation == incarnation

    def out_of_sync(self, name: str) -> None:
        """A push went by without it."""
        member = self.members.get(name)
        if member is not None and member.health in (Health.healthy, Health.suspect):
            member.health = Health.stale

    def answered(self, name: str, *, incarnation: int) -> None:
        """It answered a ping: a suspect with current weights serves again."""
        member = self.members.get(name)
        if member is None or not self._same(member, incarnation):
            return
        member.missed = 0
        if member.health is Health.suspect:
            member.health = Health.healthy

    def missed(self, name: str, *, incarnation: int, reason: str) -> None:
        """It missed a ping; after some in a row it counts as dead."""
        member = self.members.get(name)
        if member is None or not self._same(member, incarnation) or member.health not in _UP:
            return
        member.missed += 1
        member.reason = reason
        if member.missed >= self._missed_until_dead:
            member.health = Health.dead
        elif member.health is Health.healthy:
            member.health = Health.suspect

    def suspected(self, name: str, *, incarnation: int, reason: str) -> None:
        """A request got no answer: the next ping decides."""
        member = self.members.get(name)
        if member is None or not self._same(member, incarnation):
            return
        if member.health is Health.healthy:
            member.health, member.reason = Health.suspect, reason

    def died(self, name: str, *, incarnation: int, reason: str) -> None:
        """Its process is gone or useless."""
        member = self.members.get(name)
        if member is not None and self._same(member, incarnation) and member.health in _UP:
            member.reason = reason
            member.health = Health.dead

    def restarting(self, name: str) -> int:
        """A new process is being started; returns its incarnation."""
        member = self.members[name]
        assert member.health in (Health.dead, Health.restarting), member
        member.incarnation += 1
        member.restarts += 1
        member.version = member.missed = 0
        member.health = Health.restarting
        return member.incarnation

    def failed_to_boot(self, name: str, reason: str) -> None:
        """The new process did not come up."""
        member = self.members.get(name)
        if member is not None and member.health is Health.restarting:
            member.reason = reason
            member.failed_boots += 1
            member.health = Health.dead

    def describe(self) -> str:
        """One line a member, for logs and dumps."""
        return "\n".join(
            f"{m.name}: {m.health.value}, version {m.version}, {m.restarts} restarts"
            + (f" ({m.reason})" if m.reason else "")
            for m in self.members.values()
        )
