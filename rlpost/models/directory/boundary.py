"""The one place where a model's files are handed to other libraries.

Owns the translation of whatever transformers, tokenizers or jinja raise on files that somebody
else wrote. Invariant: a broken model directory is the user's to mend, never a traceback.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rlpost.errors import UserError
from rlpost.foreign_output import logged_output

log = logging.getLogger(__name__)

_LONGEST = 400  # characters of a foreign message


@contextmanager
def reading_model(what: str) -> Iterator[None]:
    """Run what reads model files; its failure is a UserError that starts with ``what``.

    What the libraries print meanwhile goes to the log.

    Args:
        what: the field and the file, such as ``model.path: m/config.json cannot be read``.

    Raises:
        UserError: anything went wrong; UserErrors pass as they are.
    """
    try:
        with logged_output():
            yield
    except UserError:
        raise
    except Exception as error:
        log.debug("reading a model failed", exc_info=True)
        raise UserError(f"{what}: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no reason was given"
    return f"{text[:_LONGEST]} ({type(error).__name__})"
