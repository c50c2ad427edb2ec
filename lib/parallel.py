"""A function of many items, computed by several processes."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any

import torch

LEAST_ITEMS = 16  # fewer are done sooner than processes start


def in_processes(function: Callable, items: Sequence, least: int = LEAST_ITEMS) -> Iterator[Any]:
    """function(item) of each item, in order, by as many processes as this one has threads (one thread each);
    an error is raised where its item stands. What is sent and returned should be no torch tensors: each would
    be an open file. Fewer than `least` items are computed here, as is everything in a script that processes
    could not import without running it."""
    workers = min(torch.get_num_threads(), len(items))
    if workers < 2 or len(items) < least or not can_be_imported(sys.modules["__main__"]):
        yield from map(function, items)
        return
    context = get_context("forkserver")  # a process that has used a GPU cannot be forked
    context.set_forkserver_preload([function_module(function)])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=begin) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)


def can_be_imported(main: Any) -> bool:
    """Whether processes can start beside this main module: a notebook's or one run by `python -m`."""
    return getattr(main, "__spec__", None) is not None or not hasattr(main, "__file__")


def function_module(function: Callable) -> str:
    """Where a function, or the one that a partial calls, is defined."""
    return getattr(function, "func", function).__module__


def begin() -> None:
    """What a process does first; it ends with its parent, also where that is killed."""
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent_process().join()
    os._exit(1)
