"""Processes: a parent that keeps N workers alive on one port, and the channel between them.

Mechanism only: `workers` starts, watches, asks and ends processes; they are forked by the `nursery`, whose inside is `forking`; `channel`
frames what they say, `sockets` shares the port, `jobs` repeats things. What a worker does stands in `proxy.app.worker`, what the parent
does in `proxy.app.parent`.
"""
