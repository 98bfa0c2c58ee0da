"""The two modes of ``rlpost preference``: pairs of a data set, and pairs of its own samples."""

from rlpost.stages.preference.boot import boot as boot_rows
from rlpost.stages.preference.online.boot import boot_online
from rlpost.stages.preference.online.plan import estimate_online, prepare_online
from rlpost.stages.preference.prepare import prepare as prepare_rows
from rlpost.stages.preference.timing import timing_online, timing_rows
from rlpost.stages.sampling.modes import Modes

_MODES = Modes(
    prepare_rows=prepare_rows,
    prepare_online=prepare_online,
    boot_rows=boot_rows,
    boot_online=boot_online,
    estimate_online=estimate_online,
    timing_rows=timing_rows,
    timing_online=timing_online,
)
prepare, boot, estimate = _MODES.prepare, _MODES.boot, _MODES.estimate
timing = _MODES.timing
