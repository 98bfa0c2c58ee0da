"""``python -m rlpost.cli.job VERSION STAGE ...``: what a job submitted by ``rlpost submit`` runs.

Owns the check that both ends are the same rlpost, and the job's last line. Invariant: the
exit code that Ray sees and the one in the last line are the stage's own.
"""

import sys

from rlpost import __version__
from rlpost.cli.exit_code import exit_code
from rlpost.errors import UserError


def main(argv: list[str]) -> int:
    """Run the stage named in ``argv``; return its exit code, or 2 for another version."""
    from rlpost.launch.job_request import ending

    submitter, *stage = argv

    def command() -> int:
        from rlpost.cli import main as door

        if submitter != __version__:
            raise UserError(
                f"this job was submitted by rlpost {submitter}, and the cluster runs rlpost "
                f"{__version__}: install the same version on both"
            )
        return door.main(stage)

    code = exit_code(command)
    print(ending(code), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
