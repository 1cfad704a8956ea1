"""The bare aiohttp pass-through that the proxy is measured against: forwards bytes both ways and does nothing else."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web


async def serve(upstream: str) -> None:
    """Serve until standard input closes; says the port first."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def forward(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.read()
            headers = {"Content-Type": request.headers.get("Content-Type", ""), "Accept-Encoding": "identity"}
            async with session.request(request.method, upstream + request.raw_path, data=body, headers=headers) as answer:
                content_type = {"Content-Type": answer.headers["Content-Type"]}
                if answer.content_length is not None:
                    return web.Response(status=answer.status, body=await answer.read(), headers=content_type)
                response = web.StreamResponse(status=answer.status, headers=content_type)
                await response.prepare(request)
                async for data in answer.content.iter_any():
                    await response.write(data)
                await response.write_eof()
                return response

        runner = web.ServerRunner(web.Server(forward, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        print("listening", runner.addresses[0][1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
