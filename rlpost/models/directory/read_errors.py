"""The one place where other libraries read a model's files.

Owns the translation of whatever transformers, tokenizers or jinja raise. Invariant: a broken
model directory gives a UserError, never a traceback.
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
    """Turn a failure to read model files into a UserError that starts with ``what``.

    What the libraries print in the block goes to the log.

    Args:
        what: the field and the file, such as ``model.path: m/config.json cannot be read``.

    Raises:
        UserError: anything went wrong; UserErrors pass unchanged.
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
