"""The calls that a server answers."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers

from normtune.serving.schemas import (
    Answer,
    Answers,
    Name,
    Problem,
    Question,
    Rows,
    Source,
    State,
    TaskInfo,
    TaskNames,
)
from normtune.serving.service import Service
from normtune.serving.settings import is_loopback

router = APIRouter()
_bearer = HTTPBearer(auto_error=False, description="The server's token, for calls that change something.")


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


Served = Annotated[Service, Depends(_service)]


def _may_change(
    request: Request, service: Served, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let only those in who may change the tasks.

    Raises:
        HTTPException: 401 without the token, 403 where the tasks are fixed or a page of another site asks.
    """
    settings = service.settings
    if settings.token is not None:
        known = settings.token.get_secret_value()
        if given is None or not secrets.compare_digest(given.credentials.encode(), known.encode()):
            raise HTTPException(401, "This call needs the server's token.", {"WWW-Authenticate": "Bearer"})
    elif not is_loopback(_hostname(request.headers)):
        # Without a token a page of another site must not get in by a name that it made to lead here.
        raise HTTPException(403, "Without a token only calls to localhost may change something.")
    if settings.fixed:
        raise HTTPException(403, "The tasks of this server are fixed; change the deltas in its folder.")


def _hostname(headers: Headers) -> str:
    host = headers.get("host", "")
    return host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    texts = {
        400: "The body is no JSON",
        401: "The token is missing or wrong",
        403: "Not allowed here",
        404: "There is no such task",
        408: "The body came too slowly",
        409: "It does not fit the task, or the delta is refused",
        413: "More than the server takes",
        422: "The request does not fit",
        503: "No room now; see Retry-After",
    }
    return {status: {"model": Problem, "description": texts[status]} for status in statuses}


_CHANGE = [Depends(_may_change)]


@router.post("/v1/predict", tags=["predict"], responses=_problems(400, 404, 408, 409, 413, 422, 503))
async def predict(asked: Rows, service: Served) -> Answers:
    """Answer many texts, each for a task of its own."""
    return Answers(answers=await service.predict([(row.task, row.asked) for row in asked.rows]))


@router.post("/v1/tasks/{task}/predict", tags=["predict"], responses=_problems(400, 404, 408, 409, 413, 422, 503))
async def predict_one(task: Name, asked: Question, service: Served) -> Answer:
    """Answer one text for one task."""
    return (await service.predict([(task, asked.asked)]))[0]


@router.get("/v1/tasks", tags=["tasks"], responses=_problems(422))
async def tasks(
    service: Served,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> TaskNames:
    """The names of the tasks, a page at a time."""
    names = await service.at_desk(service.catalogue.names)
    return TaskNames(total=len(names), tasks=names[offset : offset + limit])


@router.get("/v1/tasks/{task}", tags=["tasks"], responses=_problems(404, 409, 422))
async def one_task(task: Name, service: Served) -> TaskInfo:
    """What a task answers."""
    return TaskInfo.of(await service.at_desk(lambda: service.catalogue.entry(task)))


@router.put(
    "/v1/tasks/{task}",
    dependencies=_CHANGE,
    tags=["tasks"],
    responses={
        201: {"model": TaskInfo, "description": "The task is new"},
        **_problems(400, 401, 403, 408, 409, 413, 422),
    },
)
async def put_task(task: Name, source: Source, service: Served, response: Response) -> TaskInfo:
    """Add a task, or replace it at once, with a delta of the server's folder. One that does not fit changes nothing."""
    entry, new = await service.at_desk(lambda: service.catalogue.add(task, source.delta))
    response.status_code = 201 if new else 200
    return TaskInfo.of(entry)


@router.delete(
    "/v1/tasks/{task}",
    dependencies=_CHANGE,
    tags=["tasks"],
    status_code=204,
    responses=_problems(401, 403, 404, 409, 422),
)
async def delete_task(task: Name, service: Served) -> None:
    """Remove a task. What was asked of it before is still answered."""
    await service.at_desk(lambda: service.catalogue.remove(task))


@router.get("/healthz", tags=["state"])
async def health() -> State:
    """Whether the server lives."""
    return State(status="alive")


@router.get("/readyz", tags=["state"], responses={503: {"model": State, "description": "Not yet, or no longer"}})
async def readiness(service: Served, response: Response) -> State:
    """Whether requests should be sent here."""
    response.status_code = 200 if service.ready else 503
    return State(status="ready" if service.ready else "stopping")


@router.get(
    "/metrics",
    tags=["state"],
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
)
async def metrics(service: Served) -> Response:
    """What Prometheus reads."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
