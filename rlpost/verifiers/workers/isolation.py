"""What keeps a worker, and all that it starts, apart from the other processes of the machine.

Owns the guard processes between a sandbox and its worker and the kernel's walls around the
worker. Refuses to hide files, the network or the processor: the worker has the user's own
rights to those. Invariants: no process that a worker starts, however it detaches itself,
outlives the guard; what the kernel does not offer is left out and reported, never assumed.

With a PID namespace the processes are: guard, init of the namespace, worker; when the init
ends, the kernel kills everything in the namespace. Where no namespace may be created, as in
most containers: guard, worker; the guard adopts orphans and kills them one by one.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

END = signal.SIGUSR1  # to a guard: end the worker and all that it started
SIGNALLED = 128  # a guard's exit code for a worker that a signal ended, plus that signal

# linux/prctl.h, linux/sched.h, linux/mount.h, linux/landlock.h, linux/capability.h
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_REFER, _LANDLOCK_SCOPE_SIGNAL = 1 << 13, 1 << 1
_CAPABILITY_VERSION = 0x20080522
# What root keeps: files of other owners, and other users for what it starts.
_KEPT = (0, 1, 2, 3, 4, 5, 6, 7, 10)  # CHOWN .. KILL, SETGID, SETUID, NET_BIND_SERVICE


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """Which of the kernel's walls stand around a worker."""

    namespace: bool  # it sees no process but its own, and they all end together
    landlock: int  # version of the kernel's interface; 0: none

    @property
    def hides_processes(self) -> bool:
        """Whether environment and memory of the user's other processes are out of reach."""
        return self.namespace or self.landlock > 0

    @property
    def blocks_signals(self) -> bool:
        """Whether the user's other processes are safe from its signals."""
        return self.namespace or self.landlock >= 6


def isolate(parent_pid: int, *, channel: int, namespace: bool = True) -> Isolation:
    """Return in a new process that is as isolated as this machine allows.

    The calling process becomes its guard and never returns: it ends with the worker, with
    the thread of ``parent_pid`` that started it, or on the signal END, and nothing is left
    then. Call it while this process has one thread.

    Args:
        parent_pid: end at once if this is no longer the parent.
        channel: descriptor that belongs to the worker alone.
        namespace: False leaves the PID namespace out even where it is possible.
    """
    awaited = {END, signal.SIGCHLD, signal.SIGTERM}
    inherited = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    if signal.SIGTERM in inherited:  # a scheduler's SIGTERM is kept away from all of the run
        awaited.remove(signal.SIGTERM)
    namespace = namespace and _succeeds(_in_namespace)
    # A stopped guard is ended by SIGKILL only, but only a namespace ends without its guard.
    _die_with_parent(signal.SIGKILL if namespace else END)
    if os.getppid() != parent_pid:
        os._exit(1)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if namespace:
        _unshare()
    _continue_below_guard(awaited, channel=channel)
    os.setsid()  # a signal to its own group reaches no guard
    if namespace:
        _mount_proc()
        _continue_below_guard(awaited, channel=channel)
    signal.pthread_sigmask(signal.SIG_SETMASK, inherited)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    landlock = _landlock(_landlock_version())
    _drop_capabilities(kept=() if os.geteuid() else _KEPT)
    return Isolation(namespace=namespace, landlock=landlock)


def _continue_below_guard(awaited: Collection[int], *, channel: int) -> None:
    """Return in a new child, guarded by the process that called this."""
    alive, end_of_guard = os.pipe()
    child = os.fork()
    if child:
        os.close(channel)
        _guard(child, awaited)
    os.close(end_of_guard)
    _die_with_parent(signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:  # the guard died before this could notice
        os._exit(1)
    os.close(alive)


def _guard(child: int, awaited: Collection[int]) -> NoReturn:
    """Wait for the child's end or a signal, end whatever is left, report how the child ended."""
    status = None
    while status is None:
        if signal.sigwait(awaited) != signal.SIGCHLD:
            os.kill(child, signal.SIGKILL)
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = ended[1]
                break
    if os.getpid() != 1:  # the kernel ends whom the init of a namespace leaves behind
        _end_orphans()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else SIGNALLED - code)


def _end_orphans() -> None:
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for orphan in _children():
            # The group first: a process cannot escape a signal to its group by forking.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(orphan) != os.getpgrp():
                    os.killpg(os.getpgid(orphan), signal.SIGKILL)
                os.kill(orphan, signal.SIGKILL)
        time.sleep(0.002)


def _children() -> list[int]:
    # Not psutil: every worker would import it, for an end that rarely comes.
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state_and_parent = status.read_bytes().rpartition(b")")[2].split()[:2]
            if int(state_and_parent[1]) == os.getpid():
                found.append(int(status.parent.name))
    return found


def _succeeds(action: Callable[[], None]) -> bool:
    """Whether a process of its own can do ``action``."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(OSError):
            action()
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _in_namespace() -> None:
    _unshare()
    if not _succeeds(_mount_proc):
        raise OSError("a container's /proc is partly hidden, so it cannot be mounted anew")


def _unshare() -> None:
    """Let the next child be the first process of a PID namespace."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:  # in a user namespace, root would lose its right to files of other owners
        _libc("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
        return
    _libc("unshare", _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _mount_proc() -> None:
    """Show this namespace's processes under /proc, for which psutil and others look there."""
    _libc("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    _libc("mount", b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)


def _landlock_version() -> int:
    try:
        return _libc("syscall", _LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    except OSError:
        return 0  # not in this kernel, not switched on, or forbidden in this container


def _landlock(version: int) -> int:
    """Cut this process off from the others as far as the interface's version can; return it.

    Any Landlock domain keeps its processes from tracing and reading those outside; from
    version 6 on it can also keep signals in. Files stay as they are.
    """
    if version < 2:  # version 1 would forbid to rename files between directories
        return 0
    if version >= 6:
        attributes = (ctypes.c_uint64 * 3)(0, 0, _LANDLOCK_SCOPE_SIGNAL)
    else:
        attributes = (ctypes.c_uint64 * 1)(_LANDLOCK_REFER)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    ruleset = _libc("syscall", _LANDLOCK_CREATE, ctypes.byref(attributes), size, 0)
    try:
        if version < 6:  # what a domain handles it denies, unless a rule allows it
            _allow_everywhere(ruleset, _LANDLOCK_REFER)
        _libc("syscall", _LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow_everywhere(ruleset: int, access: int) -> None:
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", access, root)  # struct landlock_path_beneath_attr, packed
        _libc("syscall", _LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
    finally:
        os.close(root)


def _drop_capabilities(*, kept: Collection[int]) -> None:
    """Give up all rights of root but ``kept``, for this process and what it starts."""
    for number in range(64):
        if number not in kept:
            with contextlib.suppress(OSError):  # not root, or beyond what the kernel has
                _prctl(_PR_CAPBSET_DROP, number)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    buffer = ctypes.create_string_buffer(24)
    _libc("capget", header, buffer)
    mask = sum(1 << number for number in kept)
    words = [word & mask for word in struct.unpack("=6I", buffer.raw)[:3]] + [0] * 3
    _libc("capset", header, struct.pack("=6I", *words))


def _die_with_parent(number: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    _libc("prctl", option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def _libc(function: str, *arguments: Any) -> int:
    result: int = getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":  # `python -m` tells what a worker gets on this machine
    walls = isolate(os.getppid(), channel=os.dup(0))
    os.write(1, json.dumps(dataclasses.asdict(walls)).encode())
