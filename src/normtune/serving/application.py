"""The application: the calls, their errors, and a documentation page that needs no other server."""

from __future__ import annotations

import importlib.resources
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Match

from normtune.errors import DataError, DeltaError
from normtune.serving.batcher import BatchError, FullError
from normtune.serving.catalogue import UnknownTaskError
from normtune.serving.description import describe
from normtune.serving.gate import Gate, problem
from normtune.serving.routes import router
from normtune.serving.service import Service, TooLongError

_log = logging.getLogger(__name__)
_NAMES = {400: "bad-request", 401: "unauthorized", 403: "forbidden", 404: "not-found", 405: "method-not-allowed"}


def application(service: Service) -> FastAPI:
    """The ASGI application around a service, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title="normtune", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.state.service = service
    app.include_router(router)
    app.add_middleware(Gate, service=service)
    _add_errors(app)
    _add_page(app)
    describe(app, service)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "invalid", _first(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        headers = {**(error.headers or {})}
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        return problem(error.status_code, _NAMES.get(error.status_code, "error"), str(error.detail), headers)

    @app.exception_handler(UnknownTaskError)
    async def unknown(request: Request, error: UnknownTaskError) -> JSONResponse:
        return problem(404, "unknown-task", str(error))

    @app.exception_handler(TooLongError)
    async def long(request: Request, error: TooLongError) -> JSONResponse:
        return problem(422, "too-long", str(error))

    @app.exception_handler(DataError)
    async def data(request: Request, error: DataError) -> JSONResponse:
        return problem(409, "does-not-fit", str(error))

    @app.exception_handler(DeltaError)
    async def delta(request: Request, error: DeltaError) -> JSONResponse:
        return problem(409, "refused-delta", str(error))

    @app.exception_handler(FullError)
    async def full(request: Request, error: FullError) -> JSONResponse:
        return problem(503, "full", str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(BatchError)
    async def failed(request: Request, error: BatchError) -> JSONResponse:
        return problem(500, "defect", str(error))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "defect", "The server failed on this request; its log says why.")


def _first(error: RequestValidationError) -> str:
    """The first of the things that are wrong, with where it is; what was sent is not repeated."""
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where[:200]}: {found['msg'][:300]}"


def _allowed(request: Request) -> list[str]:
    methods: set[str] = set()
    for route in router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


def _add_page(app: FastAPI) -> None:
    """A documentation page whose scripts come with an installed package: nothing is fetched from another host."""
    assets = Path(str(importlib.resources.files("fastapi_swagger"))) / "resources"
    app.mount("/assets", StaticFiles(directory=assets), name="assets")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="normtune",
            swagger_js_url=f"{root}/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/assets/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True},
        )
