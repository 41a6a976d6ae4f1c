"""Listeners of an asynchronous consumer: called in the event loop, while a thread is in a call.

Knows how the loop and that thread wait for each other.  Must not know what is told.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from pylog.callbacks import Caught
from pylog.consumer.group_part import Listener
from pylog.errors import ClosedError
from pylog.records import TopicPartition

_Result = TypeVar("_Result")
_Calls = queue.SimpleQueue["Callable[[], None] | None"]

_LOOK_AT_LOOP_SECONDS: Final = 1.0  # whether it still runs, for who waits for it (guessed)

# Whose listener is running in this task, or began it.
_inside: contextvars.ContextVar[object] = contextvars.ContextVar("_inside", default=None)


class Listening:
    """The listeners of one consumer, of which one at most is told of something.

    The thread that tells a listener has entered the consumer, and waits for the loop: so it is the
    one that makes the calls of the consumer that the listener awaits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._calls: _Calls | None = None  # to be made for the listener; None: it has returned

    @property
    def is_inside(self) -> bool:
        """Whether this task is a listener that is being told, or was begun by it."""
        return self._calls is not None and _inside.get() is self

    def listener(self, function: Listener | None) -> Listener | None:
        """Return what a consumer calls in a thread for a user's function or coroutine function."""
        return None if function is None else functools.partial(self._tell, function)

    def _tell(self, function: Listener, partitions: set[TopicPartition]) -> None:
        """Call a listener in the loop, wait for it, and make the calls that it awaits meanwhile."""
        listening = self._listen(function, partitions)
        if threading.get_ident() == self._loop_thread:
            # Somebody closes the log for threads in the loop, which cannot wait for itself.
            self._begin(listening)
            return
        calls: _Calls = queue.SimpleQueue()
        self._calls = calls
        try:
            told = self._begin(listening)
            told.add_done_callback(lambda _: calls.put(None))
            while (call := self._next_call(calls)) is not None:
                call()
            told.result()
        finally:
            self._calls = None  # where the loop ended before

    def _begin(self, listening: Coroutine[Any, Any, None]) -> concurrent.futures.Future[None]:
        try:
            return asyncio.run_coroutine_threadsafe(listening, self._loop)
        except RuntimeError:
            listening.close()
            raise ClosedError("the event loop of the listener is closed") from None

    async def _listen(self, function: Listener, partitions: set[TopicPartition]) -> None:
        _inside.set(self)
        try:
            result = function(partitions)
            if inspect.isawaitable(result):
                await result
        finally:
            # Here, and not in the thread: what a task asks for that this one began, and did not
            # await, is not put behind the end.
            self._calls = None

    def _next_call(self, calls: _Calls) -> Callable[[], None] | None:
        while True:
            try:
                return calls.get(timeout=_LOOK_AT_LOOP_SECONDS)
            except queue.Empty:
                if not self._loop.is_running():
                    raise ClosedError("the event loop of the listener has ended") from None

    async def make(self, call: Callable[[], _Result]) -> _Result:
        """Have a call made for the listener that is told; only where `is_inside`."""
        work: concurrent.futures.Future[_Result] = concurrent.futures.Future()

        def run() -> None:
            if work.set_running_or_notify_cancel():
                with Caught(work.set_exception):
                    work.set_result(call())

        calls = self._calls
        assert calls is not None
        calls.put(run)
        return await asyncio.wrap_future(work)
