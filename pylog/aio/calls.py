"""Blocking calls of a log, made for one event loop by a few threads.

Knows threads and futures.  Must not know what is called.

Locks: none; everything but the calls themselves happens in the loop's thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from pylog.errors import ClosedError

logger = logging.getLogger("pylog")

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# So many syncs may be under way at once; who appends more at a time takes a producer (guessed).
THREADS: Final = 8

BEGUN: Final = "it was begun in a thread, and goes on there"
NOT_BEGUN: Final = "it was not begun"


class Calls:
    """Threads that make calls for one event loop.  Made in the loop; starts none before a call."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, "pylog-aio-call")
        self._under_way: set[concurrent.futures.Future[Any]] = set()
        self._is_closed = False

    def check_loop(self) -> None:
        """Raise RuntimeError in another event loop, or without one."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("it belongs to another event loop: each opens its own")

    async def make(
        self,
        call: Callable[[], _Result],
        *,
        ended: Callable[[], object] = lambda: None,
        unclaimed: Callable[[_Result], object] = lambda result: None,
    ) -> _Result:
        """Return what a call returns, or raise what it raises.

        A call that a thread has begun goes on when it is cancelled here; a note of the
        CancelledError says whether one had.
        ended: called in the loop when the call is over and its result was taken or given up.
        unclaimed: called before that with a result that nobody gets.
        """
        if self._is_closed:
            ended()
            raise ClosedError("the log is closed")
        done: asyncio.Future[_Result] = self.loop.create_future()
        work = self._threads.submit(call)
        self._under_way.add(work)

        def settle() -> None:
            self._under_way.discard(work)
            if not done.done():
                _pass_on(work, done)
            else:
                _give_up(work, unclaimed)
                ended()

        def tell(_: object) -> None:
            # With the loop, all who wait are gone.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(settle)

        work.add_done_callback(tell)
        try:
            return await done
        except asyncio.CancelledError as error:
            if done.cancelled():
                error.add_note(NOT_BEGUN if work.cancel() else BEGUN)
            else:
                # It was over just before.  Asked for its error, so that asyncio reports none.
                done.exception()
                _give_up(work, unclaimed)
            raise
        finally:
            if not done.cancelled():
                ended()

    async def close(self) -> None:
        """Begin no more calls, wait for those that are under way, and end the threads."""
        self._is_closed = True
        works = map(asyncio.wrap_future, self._under_way)
        await asyncio.gather(*works, return_exceptions=True)
        self._threads.shutdown()


class Caller:
    """Whose methods make calls of something else in threads; see `awaited`.

    inner: what is called.
    """

    def __init__(self, inner: Any, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls

    async def _make(self, call: Callable[[], _Result]) -> _Result:
        self._calls.check_loop()
        return await self._calls.make(call)


def awaited(
    method: Callable[Concatenate[Any, _Arguments], _Result],
) -> Callable[Concatenate[Any, _Arguments], Coroutine[Any, Any, _Result]]:
    """Return a method of a Caller that makes this one of what it calls.

    A coroutine function with the same arguments, errors and docstring.
    """

    @functools.wraps(method)
    async def made(
        self: Caller, /, *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        # By its name: some objects have faster ones of their own.
        own = getattr(self._inner, method.__name__)
        result: _Result = await self._make(functools.partial(own, *arguments, **named))
        return result

    return made


def _pass_on(work: concurrent.futures.Future[_Result], done: asyncio.Future[_Result]) -> None:
    error = work.exception()
    if error is None:
        done.set_result(work.result())
    else:
        done.set_exception(error)


def _give_up(
    work: concurrent.futures.Future[_Result], unclaimed: Callable[[_Result], object]
) -> None:
    if work.cancelled():
        return
    error = work.exception()
    if error is None:
        unclaimed(work.result())
    else:
        logger.warning("a call that was cancelled failed: %r", error)
