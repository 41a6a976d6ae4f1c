"""pylog for asyncio: the same names, with `await`, `async for` and `async with`.

Begin with `open`.  Everything here belongs to the event loop that it was opened in.
"""

from pylog.aio.consumer import Consumer
from pylog.aio.log import Groups, Log, Opening, Topic, open
from pylog.aio.producer import Producer
from pylog.aio.table import Table

__all__ = ["Consumer", "Groups", "Log", "Opening", "Producer", "Table", "Topic", "open"]
