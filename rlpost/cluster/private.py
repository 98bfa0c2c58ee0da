"""A Ray session on this host that only its own run can use.

Owns how Ray is made to listen on loopback, to ask for a token and to leave the driver's process
group. Refuses to own the cluster of somebody else (session.py). Invariants: no other host can
connect; each session has a token of its own, which is in the environment of Ray's processes and in
no file; a signal to the driver's group reaches the driver alone, which saves before it ends them.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import tenacity

from rlpost.network import LOOPBACK

# Of ray.init, wherever it goes.
QUIET = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def start_private(*, store_bytes: int) -> None:
    """Start a session that other hosts cannot reach and other users of this host cannot use.

    Args:
        store_bytes: of its object store; see ``store_size``.

    Raises:
        RuntimeError: Ray does not keep to loopback; nothing of it is left running.
        Exception: Ray's own, after several attempts.
    """
    import ray

    retrying = tenacity.Retrying(
        # Ray gives its daemons 30 s, which a busy machine may exceed, and raises no class of
        # its own.
        retry=tenacity.retry_if_exception_message(match=r".*timed out during startup"),
        stop=tenacity.stop_after_attempt(3),
        before_sleep=lambda _: ray.shutdown(),
        reraise=True,
    )
    options = {"include_dashboard": False, "object_store_memory": store_bytes, **QUIET}
    with _loopback_only(), _own_groups(), _token(secrets.token_hex(32)):
        where = retrying(ray.init, address="local", **options).address_info
    if where["node_ip_address"] != LOOPBACK:
        ray.shutdown()
        raise RuntimeError(
            f"the private Ray session listens on {where['node_ip_address']} instead of loopback, "
            "where other hosts could reach it; rlpost supports Ray 2.60"
        )
    # Ray lets every user of the host write there.
    Path(where["session_dir"]).chmod(0o700)


def read_token_anew() -> None:
    """Have Ray read ``TOKEN_VARIABLES`` again; left alone, a process reads them once.

    The token is read here and not at the first call that needs it: by then the variables may be
    gone, and Ray aborts a process that asks for a token and finds none.
    """
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    loader.has_token(ignore_auth_mode=asks_for_token())


def asks_for_token() -> bool:
    """Whether the session that this process started or joined asks for a token."""
    from ray._raylet import AuthenticationMode, get_authentication_mode

    return bool(get_authentication_mode() == AuthenticationMode.TOKEN)


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Have Ray give a node that starts now the loopback address.

    Every server of a node listens on loopback alone if that is the node's address, and on all
    interfaces otherwise. ``ray.init`` has no option for it and replaces a loopback address that
    it is given; this is how Ray itself starts where a firewall would ask the user.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _own_groups() -> Iterator[None]:
    """Have each process that Ray starts now lead a group of its own, with what it starts itself.

    A terminal's Ctrl-C and `timeout` signal the driver's whole group, which would end Ray before
    the driver has saved. Ray has no option for it. Its processes still end with the driver: the
    kernel kills them when their parent dies, however it dies.
    """
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def _token(token: str) -> Iterator[None]:
    """Have a session that starts now ask for ``token``, whatever the user's cluster asks for.

    Ray's processes inherit it; this process keeps it in memory, and its environment is as before.
    """
    before = {name: os.environ.pop(name, None) for name in TOKEN_VARIABLES}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    read_token_anew()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
