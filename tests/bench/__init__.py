"""The benchmark: the enforced proxy against a bare aiohttp pass-through, measured side by side in one run.

`python -m tests.bench` from the root. Machines differ, so the ratios are what counts; `upstream` and `load` are made to cost next
to nothing beside what is measured.
"""
