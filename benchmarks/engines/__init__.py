"""The engines of the logs for several machines: how each is started for a measurement, and what its own
client does alone with the same bytes.

One module for each, named as the scheme of its URLs, with

    ``serving(folder)``     a context manager: the engine, durable, on a free port, with its data in
                            ``folder``; gives the URL of its log
    ``bare(url, batches)``  a coroutine: has the engine's own client write batches of records, as
                            pipelined as it can, each batch acknowledged before the next one;
                            gives the seconds that it took
"""
