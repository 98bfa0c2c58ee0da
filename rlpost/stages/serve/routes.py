"""The paths with which adapters are listed, loaded and unloaded while the server answers.

Owns their form, the status of each failure and the counts in ``/metrics``. Refuses to own what they
do (loading.py) and who may ask (access.py, in front of all paths). Invariant: an error has the form
of OpenAI's errors, and says the reason and the way out.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from rlpost.bounds import WEEK_S
from rlpost.control.served_adapters import NameTaken, NoRoom, NoSuchAdapter, ServedAdapter
from rlpost.errors import InfrastructureError, UserError
from rlpost.stages.serve.loading import Loading

T = TypeVar("T")

PATH = "/v1/adapters"
_STATUS: dict[type[Exception], int] = {
    NoSuchAdapter: 404,
    NameTaken: 409,
    NoRoom: 409,
    UserError: 422,
    InfrastructureError: 500,
}


class LoadRequest(BaseModel):
    """What is loaded, and under which name."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=500)
    path: str = Field(max_length=4096)


def add_routes(app: FastAPI, loading: Loading, *, drain_s: float) -> None:
    """Add the paths to a server.

    Args:
        app: the server.
        loading: what they do.
        drain_s: how long an unload waits for running requests, where the client does not say.
    """
    router = APIRouter()

    @router.get(PATH)
    async def list_adapters() -> dict[str, Any]:
        return {"object": "list", "data": [described(each) for each in loading.adapters]}

    @router.post(PATH)
    async def load_adapter(wanted: LoadRequest) -> Any:
        return await _answered(loading.load(wanted.name, wanted.path), described)

    @router.delete(PATH + "/{name:path}")
    async def unload_adapter(
        name: str, deadline_s: float = Query(default=drain_s, ge=0, le=WEEK_S)
    ) -> Any:
        return await _answered(loading.unload(name, deadline_s=deadline_s), asdict)

    app.include_router(router)


def described(adapter: ServedAdapter) -> dict[str, Any]:
    """Return what clients are told of an adapter."""
    return {
        "name": adapter.name,
        "state": adapter.state.value,
        **adapter.about,
        "requests_running": len(adapter.running),
        "requests": adapter.started,
    }


class AdapterCounts:
    """A collector of prometheus: how many requests each adapter has, and had."""

    def __init__(self, loading: Loading) -> None:
        self._adapters = loading.adapters

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds = (
            (CounterMetricFamily, "requests", "Requests that began", lambda each: each.started),
            (
                GaugeMetricFamily,
                "requests_running",
                "Requests under way",
                lambda each: len(each.running),
            ),
        )
        for kind, what, help_line, value in kinds:
            family = kind(f"rlpost:adapter_{what}", f"{help_line}, by adapter.", labels=["adapter"])
            for each in self._adapters:
                family.add_metric([each.name], value(each))
            yield family


async def _answered(work: Awaitable[T], describe: Callable[[T], dict[str, Any]]) -> Any:
    try:
        return describe(await work)
    except (UserError, InfrastructureError) as error:
        return _error(
            next(_STATUS[each] for each in type(error).__mro__ if each in _STATUS), str(error)
        )


def _error(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "AdapterError", "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status)
