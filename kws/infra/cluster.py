"""Parts of a long step, one after the other here, or shared by the workers of a Dask cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kws.infra.files import CourseError


def run_each(function: Callable, parts: Iterable, client: Any = None) -> Iterator:
    """What `function` returns for each of some parts, as they are done: here, or by the workers of a Dask client."""
    if client is None:
        yield from map(function, parts)
        return
    from dask.distributed import as_completed

    parts, at_a_time = iter(parts), 4 * max(1, sum(client.nthreads().values()))
    running = as_completed(client.map(function, list(itertools.islice(parts, at_a_time)), pure=False))
    for future in running:
        yield future.result()
        for part in itertools.islice(parts, 1):
            running.add(client.submit(function, part, pure=False))


def connect(address: str) -> Any:
    """dask.distributed.Client of the scheduler at an address, or of two new worker processes for "local"; to be closed.

    Raises
    ------
    CourseError: dask is missing, or no scheduler answers.
    """
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise CourseError(
            "dask is missing, and runs without a cluster do not need it: pip install -r req-scale.txt"
        ) from error
    try:
        if address == "local":
            return Client(n_workers=2, threads_per_worker=1, silence_logs="ERROR")
        return Client(address)
    except (OSError, ValueError) as error:
        raise CourseError(
            f"CLUSTER={address}: no scheduler answers ({error}). Start one: dask scheduler"
        ) from error
