"""The OpenAPI description, with the server's own limits and with examples that its own tasks answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from normtune.errors import NormtuneError
from normtune.serving.catalogue import Catalogue
from normtune.serving.service import Service
from normtune.versions import versions

_ABOUT = (
    "Many tasks from one frozen base model. Rows for different tasks are answered in the same batches; each row gets"
    " the answer that its own task gives alone."
)
_EXAMPLES = 3


def describe(app: FastAPI, service: Service) -> None:
    """Make `app` describe itself with the limits and the tasks that it has at the time."""

    def openapi() -> dict[str, Any]:
        found = get_openapi(title="normtune", version=versions()["normtune"], description=_ABOUT, routes=app.routes)
        _add_limits(found, service)
        _add_examples(found, service.catalogue)
        if service.settings.token is None:
            _drop_security(found)
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _add_limits(found: dict[str, Any], service: Service) -> None:
    settings, schemas = service.settings, found["components"]["schemas"]
    schemas["Rows"]["properties"]["rows"]["maxItems"] = min(settings.max_rows, settings.max_queue)
    for name in ("Question", "Row"):
        fields = schemas[name]["properties"]
        fields["text"]["maxLength"] = settings.max_text
        for choice in fields["text_pair"]["anyOf"]:
            if choice["type"] == "string":
                choice["maxLength"] = settings.max_text


def _add_examples(found: dict[str, Any], catalogue: Catalogue) -> None:
    rows = []
    for name in catalogue.names()[:_EXAMPLES]:
        try:
            pair = catalogue.entry(name).task.pair
        except NormtuneError:  # a damaged file of the folder makes no example
            continue
        rows.append({"task": name, "text": "where is my parcel?", **({"text_pair": "It is late."} if pair else {})})
    if not rows:
        return
    schemas, first = found["components"]["schemas"], rows[0]
    schemas["Rows"]["example"] = {"rows": rows}
    schemas["Question"]["example"] = {key: value for key, value in first.items() if key != "task"}
    if catalogue.folder is not None and (deltas := catalogue.folder.names()):
        schemas["Source"]["example"] = {"delta": deltas[0]}
    for path in found["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "task":
                    parameter["example"] = first["task"]


def _drop_security(found: dict[str, Any]) -> None:
    found["components"].pop("securitySchemes", None)
    for path in found["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
            operation["responses"].pop("401", None)
