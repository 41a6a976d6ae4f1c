"""confluent-kafka, which is loaded when it is needed, and its errors as pylog's.

Knows settings of the client library.  Must not know what is sent or read.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from pylog.errors import (
    KafkaRefusedError,
    KafkaUnavailableError,
    MirrorError,
    MirrorFencedError,
    MissingExtraError,
)

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer
    from confluent_kafka.admin import AdminClient

logger = logging.getLogger("pylog")
_client_logger = logging.getLogger("pylog.kafka")
# It is told with each producer, and what it says is thought of; see PlainWriter.
_client_logger.addFilter(lambda line: "enable.gapless.guarantee is exp" not in line.getMessage())

Settings = Mapping[str, Any]

REQUEST_SECONDS: Final = 30.0  # Kafka's request.timeout.ms
POLL_SECONDS: Final = 0.1  # how late Ctrl-C may be in a wait of the client library
# Neither the client's limit of 1,000,000 bytes nor anything else below it decides what a broker
# takes: librdkafka's largest.
_MAX_MESSAGE_BYTES: Final = 1_000_000_000

_FENCED: Final = ("_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH")
_UNAVAILABLE: Final = frozenset(
    "_ALL_BROKERS_DOWN _DESTROY _MSG_TIMED_OUT _PURGE_INFLIGHT _PURGE_QUEUE _RESOLVE _TIMED_OUT "
    "_TIMED_OUT_QUEUE _TRANSPORT _WAIT_COORD BROKER_NOT_AVAILABLE CONCURRENT_TRANSACTIONS "
    "COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE LEADER_NOT_AVAILABLE NETWORK_EXCEPTION "
    "NOT_CONTROLLER NOT_COORDINATOR NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND "
    "NOT_LEADER_FOR_PARTITION REQUEST_TIMED_OUT".split()
)


def library() -> ModuleType:
    """Return the module confluent_kafka.  Raises MissingExtraError."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise MissingExtraError("confluent-kafka", "kafka") from error
    return confluent_kafka


def admin_library() -> ModuleType:
    """Return the module confluent_kafka.admin.  Raises MissingExtraError."""
    library()
    from confluent_kafka import admin

    return admin


def settings_of(given: Settings | str) -> dict[str, Any]:
    """Return librdkafka's settings: text alone is where the cluster is."""
    return {"bootstrap.servers": given} if isinstance(given, str) else dict(given)


def new_producer(given: Settings, **more: Any) -> Producer:
    """Return a producer.  more: settings that are not the user's to choose, with underscores.

    Raises MissingExtraError, and KafkaRefusedError for settings that librdkafka does not take.
    """
    defaults = {"client.id": "pylog-mirror", "message.max.bytes": _MAX_MESSAGE_BYTES}
    fixed = {name.replace("_", "."): value for name, value in more.items()}
    kafka = library()
    with translated():
        producer: Producer = kafka.Producer({**defaults, **given, **fixed}, logger=_client_logger)
        return producer


def new_consumer(given: Settings, **more: Any) -> Consumer:
    """Return a consumer that is in no group and commits nothing.  Arguments as `new_producer`."""
    fixed = {name.replace("_", "."): value for name, value in more.items()} | {
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        # Not half a second each, Kafka's own, where there is nothing (more) to read.
        "fetch.wait.max.ms": 20,
        "fetch.error.backoff.ms": 20,
    }
    defaults = {"client.id": "pylog-mirror", "group.id": "pylog-mirror"}
    kafka = library()
    with translated():
        consumer: Consumer = kafka.Consumer(
            {**defaults, **_common(given), **fixed}, logger=_client_logger
        )
        return consumer


def new_admin(given: Settings) -> AdminClient:
    """Return what asks about topics and offsets.  Raises what `new_producer` raises."""
    kafka = admin_library()
    with translated():
        admin: AdminClient = kafka.AdminClient(_common(given), logger=_client_logger)
        return admin


# Settings that only a producer has; librdkafka warns of them elsewhere.
_OF_PRODUCERS: Final = ("compression.", "linger.ms", "batch.", "queue.buffering.", "acks")


def _common(given: Settings) -> dict[str, Any]:
    return {name: value for name, value in given.items() if not name.startswith(_OF_PRODUCERS)}


def error_of(error: KafkaError) -> MirrorError:
    """Return what pylog raises for an error of the client library."""
    code, reason = error.name(), error.str()
    if code in _FENCED:
        return MirrorFencedError(code, reason)
    if code in _UNAVAILABLE or error.retriable():
        return KafkaUnavailableError(code, reason)
    return KafkaRefusedError(code, reason)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise the client library's errors as pylog's."""
    try:
        yield
    except library().KafkaException as error:
        raise error_of(error.args[0]) from error
