"""Gives the files of a run the permissions that the user's umask asks for.

Owns the correction of files whose writers ignore the umask: temporary files of Python and
files of safetensors are readable by their owner alone. Invariant: no file gets more permissions
than the umask allows.
"""

from pathlib import Path


def follow_umask(path: Path) -> None:
    """Give ``path``, and everything in it if it is a directory, the permissions of new files.

    Links and the setuid, setgid and sticky bits stay as they are.
    """
    mask = _umask()
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        if each.is_symlink():
            continue
        everybody = 0o777 if each.is_dir() else 0o666
        special = each.stat().st_mode & 0o7000
        each.chmod(special | (everybody & ~mask))


def _umask() -> int:
    """Read the umask from the kernel: Python can only set it, which affects all threads."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    # The kernel is older than 4.7 or hides the line: assume the strictest usable umask.
    return 0o077
