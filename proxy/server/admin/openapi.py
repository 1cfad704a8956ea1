"""The OpenAPI 3.1 document of the admin API, made from the route table and the models that validate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from proxy import domain
from proxy.errors import STATUS_BY_CODE
from proxy.server.admin.models import NoBody
from proxy.server.admin.problems import CONTENT_TYPE, Problem
from proxy.server.admin.routing import IDEMPOTENCY_KEY_PATTERN, PREFIX, Route

ALWAYS = ("invalid_request", "invalid_api_key", "forbidden", "ledger_unavailable")
WITH_BODY = ("request_too_large", "unsupported_encoding")
DESCRIPTION = """\
Amounts are decimal strings in credits, exact to 9 places; numbers are accepted. Those of an account that counts in units of a
level are in units; its `unit` says so. Times are RFC 3339 in UTC.
Lists come in pages: pass `next` as `after` until it is null. A mutation with an `Idempotency-Key` may be repeated: it is
carried out once and answered alike (an API key is shown once only). Each operation names the least role that may call it:
viewer, operator, owner.
"""


def document(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The whole document."""
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for route in routes:
        models[route.answer, "serialization"] = None
        if route.body is not NoBody:
            models[route.body, "validation"] = None
    references, definitions = models_json_schema(list(models), ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(f"{PREFIX}{route.path}", {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "compute-ledger admin API", "version": version, "description": DESCRIPTION},
        "security": [{"adminToken": []}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer", "description": "An admin token"}},
        },
    }


def _operation(route: Route, references: Mapping[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": references[route.answer, "serialization"]}}
    if route.csv:
        content["text/csv"] = {"schema": {"type": "string"}}
    operation: dict[str, Any] = {
        "operationId": route.act.__name__,
        "summary": (route.act.__doc__ or "").rstrip("."),
        "description": f"Role: {route.role}.",
        "tags": [route.path.strip("/").split("/")[0]],
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            str(route.status): {"description": HTTPStatus(route.status).phrase, "content": content},
            **_problems(route, references[Problem, "serialization"]),
        },
    }
    if route.mutates:
        operation["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY_PATTERN}$"},
                "description": "Makes repeats of this request harmless, for 7 days",
            }
        )
    if route.body is not NoBody:
        required = any(member.is_required() for member in route.body.model_fields.values())
        schema = references[route.body, "validation"]
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return operation


def _problems(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    codes = [*ALWAYS, *(WITH_BODY if route.body is not NoBody else ()), *route.refusals]
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUS_BY_CODE[code], []).append(code)
    return {
        str(status): {"description": " or ".join(f"`{code}`" for code in named), "content": {CONTENT_TYPE: {"schema": schema}}}
        for status, named in sorted(by_status.items())
    }


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    schema = {"type": "string", "pattern": f"^{domain.IDENTIFIER_PATTERN}$"}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in re.findall(r"\{(\w+)\}", route.path)]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    schema = route.query.model_json_schema()
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": member}
        for name, member in schema.get("properties", {}).items()
    ]
