"""Everything that speaks HTTP; the only floor that knows aiohttp.

The way of a model request stands in `handler`, top to bottom, and goes on in `forwarding`. What it meets: `reading` (may this request be
read at all), `identity` (whose key), `routing` (which upstream), `catalogue` (which models, at what price), `holding` (a hold's one life;
`holds`: what they share), `exchange` (time limits), `upstream` and `connections`, `estimating` (what to hold), `metering` (what may pass
and what it cost), `headers` (what passes either way), `answers` (every no, and the budget's headers), `whole` (an answer in one write).
`open_requests` are counted, so that a worker can end. `listener` is the port; `selfservice` and `admin` stand beside, and so do `batching`
(what a file asks for: `batch_input`) and `batch_settling`, for files and batches outlive their requests.
"""
