"""The application: the calls that a server answers, their errors, their description, and a page to try them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Match

from normtune.errors import DataError, DeltaError, NormtuneError, found_wrong
from normtune.serving import schemas
from normtune.serving.batcher import Batcher, BatchError, QueueFullError, TooLongError
from normtune.serving.folder import FolderUnreachableError
from normtune.serving.gate import Gate, problem
from normtune.serving.schemas import Answer, Answers, Name, Problem, Question, Questions, TaskInfo, TaskNames
from normtune.serving.tasks import Catalogue, UnknownTaskError
from normtune.versions import versions

_ABOUT = (
    "Many tasks from one frozen base model. Rows for different tasks are answered in the same batches; each row gets"
    " the answer that its own task gives alone."
)
_EXAMPLES = 3
#: Status and short name of each error; the first class that fits counts.
_ERRORS: dict[type[NormtuneError], tuple[int, str]] = {
    UnknownTaskError: (404, "unknown-task"),
    TooLongError: (422, "too-long"),
    DataError: (409, "does-not-fit"),
    DeltaError: (409, "refused-delta"),
    FolderUnreachableError: (503, "away"),
    QueueFullError: (503, "full"),
    BatchError: (500, "defect"),
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


router = APIRouter(responses=_problems(400, 404, 408, 409, 413, 422, 503))
_bearer = HTTPBearer(auto_error=False, description="The server's token, for calls that change tasks.")


def application(batcher: Batcher) -> FastAPI:
    """The ASGI application around a batcher, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(
        title="normtune",
        description=_ABOUT,
        version=versions()["normtune"],
        lifespan=lifespan,
        docs_url=None,
        openapi_url=None,
        redoc_url=None,
        exception_handlers={
            RequestValidationError: _invalid,
            HTTPException: _refused,
            NormtuneError: _failed,
            Exception: _defect,
        },
    )
    app.state.batcher = batcher
    app.include_router(router)
    app.add_middleware(Gate, batcher=batcher)
    app.openapi = lambda: _openapi(app, batcher)  # type: ignore[method-assign]
    app.mount("/assets", StaticFiles(packages=[("fastapi_swagger", "resources")]), name="assets")
    return app


# Calls.


def _batcher(request: Request) -> Batcher:
    return cast(Batcher, request.app.state.batcher)


Served = Annotated[Batcher, Depends(_batcher)]


def _may_change(served: Served, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
    """Check that a request may change the tasks."""
    settings = served.settings
    if settings.token is not None:
        known = settings.token.get_secret_value()
        if given is None or not secrets.compare_digest(given.credentials.encode(), known.encode()):
            raise HTTPException(401, "This call needs the server's token.", {"WWW-Authenticate": "Bearer"})
    if settings.fixed:
        raise HTTPException(403, "The tasks of this server are fixed; change the deltas in its folder.")


_CHANGE: dict[str, Any] = {"dependencies": [Depends(_may_change)], "tags": ["tasks"]}


@router.post("/v1/predict", tags=["predict"])
async def predict(asked: Questions, served: Served) -> Answers:
    """Answer many texts, each for its own task."""
    return Answers(answers=await served.predict([(row.task, row.asked) for row in asked.rows]))


@router.post("/v1/tasks/{task}/predict", tags=["predict"])
async def predict_one(task: Name, asked: Question, served: Served) -> Answer:
    """Answer one text for one task."""
    return (await served.predict([(task, asked.asked)]))[0]


@router.get("/v1/tasks", tags=["tasks"])
async def tasks(
    served: Served,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> TaskNames:
    """The names of the tasks, a page at a time."""
    names = await served.at_desk(served.catalogue.names)
    return TaskNames(total=len(names), tasks=names[offset : offset + limit])


@router.get("/v1/tasks/{task}", tags=["tasks"])
async def one_task(task: Name, served: Served) -> TaskInfo:
    """What a task answers."""
    return TaskInfo.of(await served.at_desk(lambda: served.catalogue.entry(task)))


_NEW: dict[int | str, dict[str, Any]] = {201: {"model": TaskInfo, "description": "The task is new"}}


@router.put("/v1/tasks/{task}", responses={**_NEW, **_problems(401, 403)}, **_CHANGE)
async def put_task(task: Name, source: schemas.TaskDelta, served: Served, response: Response) -> TaskInfo:
    """Add or replace a task with a delta of the server's folder. A delta that does not fit changes nothing."""
    entry, new = await served.at_desk(lambda: served.catalogue.add(task, source.delta))
    response.status_code = 201 if new else 200
    return TaskInfo.of(entry)


@router.delete("/v1/tasks/{task}", responses=_problems(401, 403), status_code=204, **_CHANGE)
async def delete_task(task: Name, served: Served) -> None:
    """Remove a task. Texts that were accepted before are still answered."""
    await served.at_desk(lambda: served.catalogue.remove(task))


@router.get("/healthz", tags=["state"])
async def health() -> schemas.Health:
    """Whether the server is alive."""
    return schemas.Health(status="alive")


@router.get("/readyz", tags=["state"], responses={503: {"model": schemas.Health, "description": "Not now"}})
async def readiness(served: Served, response: Response) -> schemas.Health:
    """Whether to send requests here: not while the server stops, nor while its folder of deltas cannot be read."""
    there = await asyncio.to_thread(served.catalogue.is_there)
    response.status_code = 200 if served.ready and there else 503
    return schemas.Health(status="stopping" if not served.ready else "ready" if there else "away")


@router.get(
    "/metrics",
    tags=["state"],
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
)
async def metrics(served: Served) -> Response:
    """The metrics, for Prometheus."""
    return Response(generate_latest(served.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False)
async def description(request: Request, served: Served) -> JSONResponse:
    """The OpenAPI description of the calls."""
    return JSONResponse(await served.at_desk(request.app.openapi))  # its examples may have to be read from files


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """A page to try the calls. Its scripts come with an installed package; nothing is fetched from another host."""
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="normtune",
        swagger_js_url=f"{root}/assets/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/assets/swagger-ui.css",
        swagger_favicon_url=f"{root}/assets/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    # No other site may show the page in a frame and have its buttons pressed there (clickjacking).
    page.headers.update({"X-Frame-Options": "DENY", "Content-Security-Policy": "frame-ancestors 'none'"})
    return page


# Errors: each is JSON, with a short name for programs and a sentence for people.


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The first problem that validation found and where it is, without the value that was sent."""
    found = cast(RequestValidationError, error).errors()[0]
    where = ".".join(str(part) for part in found["loc"])
    return problem(422, "invalid", f"{where[:200]}: {found_wrong(found)}")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refusal = cast(HTTPException, error)
    headers = dict(refusal.headers or {})
    if refusal.status_code == 405:
        matching = [route for route in router.routes if route.matches(request.scope)[0] is not Match.NONE]
        headers["Allow"] = ", ".join(sorted({name for route in matching for name in getattr(route, "methods", ())}))
    name = HTTPStatus(refusal.status_code).phrase.lower().replace(" ", "-")
    return problem(refusal.status_code, name, str(refusal.detail), headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    status, name = next((found for kind, found in _ERRORS.items() if isinstance(error, kind)), (500, "defect"))
    headers = {"Retry-After": str(error.seconds)} if isinstance(error, QueueFullError) else None
    return problem(status, name, str(error), headers)


async def _defect(request: Request, error: Exception) -> JSONResponse:
    return await _failed(request, BatchError())


# The OpenAPI description: with the server's own limits, and with examples that its own tasks answer.


def _openapi(app: FastAPI, batcher: Batcher) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    settings, models = batcher.settings, found["components"]["schemas"]
    models["Questions"]["properties"]["rows"]["maxItems"] = min(settings.max_rows, settings.max_queue)
    for name in ("Question", "TaskQuestion"):
        fields = models[name]["properties"]
        fields["text"]["maxLength"] = settings.max_text
        fields["text_pair"]["anyOf"][0]["maxLength"] = settings.max_text
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    with suppress(NormtuneError):  # no examples if the folder cannot be read
        _add_examples(models, operations, batcher.catalogue)
    if settings.token is None:
        found["components"].pop("securitySchemes", None)
        for operation in operations:
            operation.pop("security", None)
            operation["responses"].pop("401", None)
    return found


def _add_examples(models: dict[str, Any], operations: list[dict[str, Any]], catalogue: Catalogue) -> None:
    rows = []
    for name in (sorted(catalogue.bank.tasks) or catalogue.names())[:_EXAMPLES]:
        try:
            pair = catalogue.entry(name).task.pair
        except NormtuneError:  # a damaged delta of the folder is no example
            continue
        rows.append({"task": name, "text": "where is my parcel?", **({"text_pair": "It is late."} if pair else {})})
    if not rows:
        return
    models["Questions"]["example"] = {"rows": rows}
    models["Question"]["example"] = {key: value for key, value in rows[0].items() if key != "task"}
    if catalogue.folder is not None and (deltas := catalogue.folder.names()):
        models["TaskDelta"]["example"] = {"delta": deltas[0]}
    for operation in operations:
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "task":
                parameter["example"] = rows[0]["task"]
