"""The permissions of what a run writes: those that the user's umask asks for.

Owns the repair of files whose writers choose other permissions: Python's temporary files and
safetensors' are readable by their owner alone. Invariant: nothing is more open than the umask
allows.
"""

from pathlib import Path


def follow_umask(path: Path) -> None:
    """Give ``path``, and all that a directory holds, the permissions of newly created files.

    Links stay as they are, and so does a directory's bit that hands its group on.
    """
    mask = _umask()
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        if each.is_symlink():
            continue
        everybody = 0o777 if each.is_dir() else 0o666
        special = each.stat().st_mode & 0o7000
        each.chmod(special | (everybody & ~mask))


def _umask() -> int:
    """Read the umask from the kernel; Python could only set it, under every other thread."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    # A kernel older than 4.7, or hidden: the strictest that a run can work under.
    return 0o077
