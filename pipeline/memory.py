"""Memory that does not grow with a batch."""

import ctypes
from contextlib import suppress
from functools import cache

M_ARENA_MAX = -8  # glibc's malloc.h
ARENAS = 2  # pools of memory that glibc's threads share; by default eight per core, each keeping what it once needed


@cache
def frugal() -> None:
    """Let this process give back what it has freed: Arrow by the system's own allocator, glibc in few pools."""
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
