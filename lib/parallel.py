"""A function of many items, computed by several processes where that takes less time."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any

import torch

WORTH_S = 20.0  # work that takes less is done before processes have started


def in_processes(function: Callable, items: Sequence) -> Iterator[Any]:
    """function(item) of each item, in order, each by one thread: here, or by as many processes as this one
    has threads. An error is raised where its item stands. What is sent and returned holds no torch tensors:
    each would be an open file."""
    started, workers = time.monotonic(), n_workers(len(items))
    for number, item in enumerate(items):
        expected_s = (time.monotonic() - started) / max(1, number) * (len(items) - number)
        if workers > 1 and number and expected_s > WORTH_S:
            yield from by_pool(function, items[number:], workers)
            return
        yield with_one_thread(function, item)


def n_workers(n_items: int) -> int:
    """Processes for so many items; this one alone in a script that others could not import without running
    it."""
    main = sys.modules["__main__"]
    importable = getattr(main, "__spec__", None) is not None or not hasattr(main, "__file__")
    return min(torch.get_num_threads(), n_items) if importable else 1


def with_one_thread(function: Callable, item: Any) -> Any:
    """As the processes do it, so that it makes no difference who does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(item)
    finally:
        torch.set_num_threads(threads)


def by_pool(function: Callable, items: Sequence, workers: int) -> Iterator[Any]:
    context = get_context("forkserver")  # a process that has used a GPU cannot be forked
    context.set_forkserver_preload([getattr(function, "func", function).__module__])  # of a partial its own
    with ProcessPoolExecutor(workers, mp_context=context, initializer=begin) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)


def begin() -> None:
    """What a process does first."""
    torch.set_num_threads(1)
    watch_parent()


def watch_parent() -> None:
    """Let this process end with its parent, also where that is killed."""
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent_process().join()
    os._exit(1)
