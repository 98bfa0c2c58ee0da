import pytest

from rlpost.verifiers.workers.environment import worker_environment

KEYS = """
    WANDB_API_KEY HF_TOKEN HUGGING_FACE_HUB_TOKEN OPENAI_API_KEY AWS_SECRET_ACCESS_KEY
    GITHUB_TOKEN RAY_AUTH_TOKEN RAY_ADDRESS WANDB_DIR SLURM_JOB_ID SSH_AUTH_SOCK HTTPS_PROXY
    LD_PRELOAD PYTHON_API_KEY PYTHON_KEYRING_BACKEND XDG_TOKEN LC_PASSWORD python_token
    HF_TOKEN_PATH AZURE_CREDENTIALS KUBECONFIG PGPASSWORD DATABASE_URL NETRC
"""
LISTED = """
    PATH HOME USER LANG LC_ALL TMPDIR TZ VIRTUAL_ENV LD_LIBRARY_PATH PYTHONPATH PYTHONHASHSEED
    HF_HOME HF_HUB_OFFLINE XDG_CACHE_HOME TORCH_HOME CUDA_VISIBLE_DEVICES SSL_CERT_FILE
"""


@pytest.mark.parametrize("name", KEYS.split())
def test_what_nobody_named_stays_outside(name):
    assert name not in worker_environment({name: "x"}, named=[])


@pytest.mark.parametrize("name", LISTED.split())
def test_listed_variables_pass(name):
    assert worker_environment({name: "x"}, named=[])[name] == "x"


@pytest.mark.parametrize("name", [*KEYS.split(), "OMP_NUM_THREADS"])
def test_named_variables_pass(name):
    assert worker_environment({name: "x"}, named=[name])[name] == "x"


def test_a_named_variable_that_is_missing_is_no_silent_gap():
    with pytest.raises(KeyError, match="GONE"):
        worker_environment({}, named=["GONE"])


def test_one_thread_per_library_unless_named():
    assert worker_environment({"OMP_NUM_THREADS": "8"}, named=[])["OMP_NUM_THREADS"] == "1"
