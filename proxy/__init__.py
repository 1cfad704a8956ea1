"""compute-ledger: a reverse proxy that gives every person a real compute budget in front of any model inference endpoint.

A request's way is `server/handler.py`, top to bottom: identify, choose the dialect, parse, price, hold, send, pump and meter, settle.

Floors; imports go only downwards (`tests/test_floors.py` keeps it so):
  cli, app, processes   commands; what is built from what; parent and workers
  server, simulation    aiohttp: the proxy's listener and the admin listener; a simulated model endpoint
  ledger | metrics      budgets on Redis or Valkey, with the Lua beside it; every Prometheus metric
  policy | dialects     pure: prices, windows, shares, equality; what each upstream API's bytes mean
  config > errors > domain   the file; refusals and failures; the nouns, with their units, and the seams; `frozen`: how nouns are made
"""

__version__ = "0.1.0"
