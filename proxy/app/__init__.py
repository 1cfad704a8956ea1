"""The program, put together: what is built from what, in the parent and in each worker.

`parent` reads the configuration (`settings`), starts the ledger, the admin listener and the workers, and keeps them; a `worker` serves
requests (`service`), forked where all that it needs is loaded (`nursery`). Both come by their books in the same way (`books`,
`counting`). How processes are kept and talk is `proxy.processes`.
"""
