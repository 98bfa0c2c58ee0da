"""Which environment variables a worker sees: an allow-list, so that no key of the run is on it.

Owns the list. Refuses to hide files: a worker runs as the user, and what the user can read,
``~/.netrc`` or a saved token among it, a judge can read too. Invariant: a variable is passed
on because it is listed here or because ``verifier.env`` names it, never by default.
"""

import re
from collections.abc import Iterable, Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_ACCOUNT = "HOME HOSTNAME LANG LANGUAGE LOGNAME PATH SHELL TERM TMPDIR TZ USER"
_PROGRAMS = "CONDA_PREFIX LD_LIBRARY_PATH VIRTUAL_ENV"
_CERTIFICATES = "CURL_CA_BUNDLE REQUESTS_CA_BUNDLE SSL_CERT_DIR SSL_CERT_FILE"
_CACHES = (
    "HF_DATASETS_CACHE HF_HOME HF_HUB_CACHE MPLCONFIGDIR NLTK_DATA TORCHINDUCTOR_CACHE_DIR "
    "TORCH_EXTENSIONS_DIR TORCH_HOME TRITON_CACHE_DIR"
)
_NETWORK_USE = "HF_DATASETS_OFFLINE HF_HUB_DISABLE_TELEMETRY HF_HUB_OFFLINE TRANSFORMERS_OFFLINE"
_DEVICES = (
    "CUDA_CACHE_PATH CUDA_DEVICE_ORDER CUDA_HOME CUDA_PATH CUDA_VISIBLE_DEVICES "
    "NVIDIA_DRIVER_CAPABILITIES NVIDIA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES"
)
_NAMES = frozenset(
    " ".join((_ACCOUNT, _PROGRAMS, _CERTIFICATES, _CACHES, _NETWORK_USE, _DEVICES)).split()
)
_PREFIXES = ("LC_", "PYTHON", "XDG_")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|COOKIE")
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "RAYON_NUM_THREADS",
    ),
    "1",
)


def worker_environment(base: Mapping[str, str], *, named: Iterable[str]) -> dict[str, str]:
    """Return what a worker sees of ``base``: the listed variables and those ``named``.

    Raises:
        KeyError: ``base`` has no variable of a name in ``named``.
    """
    listed = {name: value for name, value in base.items() if _is_listed(name)}
    return listed | _ONE_THREAD | {name: base[name] for name in named}


def _is_listed(name: str) -> bool:
    return name in _NAMES or (name.startswith(_PREFIXES) and not _SECRET.search(name.upper()))
