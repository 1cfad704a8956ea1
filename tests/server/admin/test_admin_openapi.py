"""The OpenAPI document says what the listener does."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator

from proxy.server.admin.listener import route_table
from tests.server.admin.bench import Client

ROUTES = route_table(version="0")


async def document(call: Client) -> Any:
    return await call.done("GET", "/openapi.json")


async def test_it_is_a_valid_openapi_3_1_document(call: Client) -> None:
    """As the specification's own schema has it, with every reference resolved."""
    written = await document(call)
    assert written["openapi"].startswith("3.1")
    assert written["info"]["version"] == "1.2.3"
    OpenAPIV31SpecValidator(written).validate()


async def test_every_route_is_in_it_and_nothing_else(call: Client) -> None:
    """With its role, its id parameters, and a problem for each way to fail."""
    written = await document(call)
    described = {(method.upper(), path.removeprefix("/admin/v1")) for path, item in written["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    operations = [operation for item in written["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for route in ROUTES:
        operation = written["paths"][f"/admin/v1{route.path}"][route.method.lower()]
        assert operation["summary"]
        assert route.role in operation["description"]
        in_path = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
        assert all(f"{{{name}}}" in route.path for name in in_path)
        assert len(in_path) == route.path.count("{")
        assert {"400", "401", "403", "503", str(route.status)} <= set(operation["responses"])
        keyed = any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
        assert keyed == (route.method != "GET")


def referring(schema: Any, written: Any) -> Any:
    return {**schema, "components": written["components"]}


async def test_real_answers_fit_their_schemas(call: Client) -> None:
    """What the listener answers is what the document promises, errors included."""
    written = await document(call)

    async def check(method: str, path: str, body: Any = None, *, template: str | None = None) -> Any:
        reply = await call(method, f"/admin/v1{path}", body)
        operation = written["paths"][f"/admin/v1{template or path.partition('?')[0]}"][method.lower()]
        content = operation["responses"][str(reply.status)]["content"]
        media_type = reply.headers["Content-Type"].partition(";")[0]
        jsonschema.Draft202012Validator(referring(content[media_type]["schema"], written)).validate(reply.json)
        return reply.json

    await check("POST", "/accounts", {"id": "user:ann"})
    await check("POST", "/accounts", {"id": "free", "limits": []})
    await check("POST", "/accounts", {"id": "no way"})
    await check("PATCH", "/accounts/user:ann", {"weight": 2}, template="/accounts/{id}")
    await check("POST", "/accounts/user:ann/keys", template="/accounts/{id}/keys")
    await check("GET", "/accounts/user:ann/keys", template="/accounts/{id}/keys")
    grant = await check("POST", "/accounts/user:ann/grants", {"credits": 1, "reason": "x"}, template="/accounts/{id}/grants")
    await check("POST", "/accounts/user:ann/adjustments", {"credits": 1, "reason": "x"}, template="/accounts/{id}/adjustments")
    await check("POST", "/accounts/user:ann/adjustments", {"credits": -9, "reason": "x"}, template="/accounts/{id}/adjustments")
    await check("POST", "/transfers", {"from": "user:ann", "to": "free", "credits": 1, "reason": "x"})
    await check("POST", "/transfers", {"from": "user:ann", "to": "free", "credits": 100, "reason": "x"})
    await check("DELETE", f"/accounts/user:ann/grants/{grant['grant_id']}", template="/accounts/{id}/grants/{grant_id}")
    await check("PUT", "/plans/gold", {"limits": [{"credits": 1}]}, template="/plans/{name}")
    await check("POST", "/prices", {"model": "m", "effective": "2026-01-01", "input": 1})
    await check("POST", "/prices", {"model": "n", "effective": "2026-01-01", "input": 1, "tiers": [{"above_input_tokens": 9, "input": 2}]})
    await check("PATCH", "/pools/scarce", {"draining": True}, template="/pools/{name}")
    for path in ("/accounts", "/plans", "/pools", "/prices", "/events", "/openapi.json"):
        await check("GET", path)
    for what in ("", "/journal", "/holds", "/grants"):
        await check("GET", f"/accounts/user:ann{what}", template=f"/accounts/{{id}}{what}")
    await check("POST", "/audit")


async def test_the_schema_of_a_body_refuses_what_the_listener_refuses(call: Client) -> None:
    """A client that validates against the document finds its mistakes before it sends them."""
    written = await document(call)
    schema = referring({"$ref": "#/components/schemas/AccountCreate"}, written)
    good = {"id": "user:ann", "limits": [{"credits": "12.5", "window": "day"}, {"credits": 3}]}
    jsonschema.Draft202012Validator(schema).validate(good)
    for bad in ({}, {"id": "a b"}, {"id": "a", "x": 1}, {"id": "a", "weight": 0}, {"id": "a", "limits": [{"credits": "-1"}]}):
        assert not jsonschema.Draft202012Validator(schema).is_valid(bad), json.dumps(bad)
