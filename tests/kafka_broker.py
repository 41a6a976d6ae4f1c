"""A real Kafka broker for tests: one node, KRaft, on ephemeral ports of 127.0.0.1.

Its jars come from Maven Central and are kept outside the checkout.  Environment:

    PYLOG_KAFKA=1       asks for the tests that need a broker
    PYLOG_KAFKA_JARS    where the jars are, or are put; by default below the user's cache directory
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from kafka_cluster import SECONDS

VERSION = "4.1.1"
START_SECONDS = 300
MAVEN_SECONDS = 300
JAVA_SECONDS = 300
JAVA_VERSION = 17  # the oldest that this Kafka runs on

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pylog</groupId><artifactId>broker</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


@functools.cache  # what does not come is not waited for again
def _find_jars() -> Path | str:
    """Return the directory of the jars, downloaded if they are not there, or why there is none."""
    if os.environ.get("PYLOG_KAFKA", "") in ("", "0"):
        return "a real Kafka broker; PYLOG_KAFKA=1 runs it"
    if _java_version() < JAVA_VERSION:
        return f"needs java, {JAVA_VERSION} or newer"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = os.environ.get("PYLOG_KAFKA_JARS")
    folder = Path(given) if given else cache / "pylog" / f"kafka-{VERSION}"
    if not list(folder.glob("kafka_2.13-*.jar")):
        if shutil.which("mvn") is None:
            return f"needs Kafka's jars in {folder}, or mvn to fetch them"
        try:
            _fetch_jars(folder)
        except subprocess.SubprocessError as error:
            return f"Maven Central does not give Kafka's jars: {error}"
        except OSError as error:
            return f"Kafka's jars cannot be kept: {error}"
    return folder


def _java_version() -> int:
    """Return the first number of the version of java, 0 where there is none that runs."""
    if shutil.which("java") is None:
        return 0
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


def _fetch_jars(folder: Path) -> None:
    """Download all jars, or none: what Maven was interrupted at is never taken for the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        pom, jars_ = Path(part, "pom.xml"), Path(part, "jars")
        pom.write_text(_POM)
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
        command = ["mvn", "-B", "-q", "-f", str(pom), goal]
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={jars_}"]
        subprocess.run(command + options, timeout=MAVEN_SECONDS, check=True)
        # The one that is looked for comes last.
        for jar in sorted(jars_.iterdir(), key=lambda jar: jar.name.startswith("kafka_2.13-")):
            jar.replace(folder / jar.name)


def jars() -> Path:
    """Return the directory of the jars; skips where there are none."""
    found = _find_jars()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def java(*arguments: str, seconds: int = JAVA_SECONDS) -> str:
    """Run a class of Kafka and return all that it printed; asserts that it ended well."""
    command = ["java", "-Xmx256m", "-cp", f"{jars()}/*", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def dump(*options: str) -> str:
    """Return what Kafka's DumpLogSegments says."""
    return java("kafka.tools.DumpLogSegments", *options)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Broker:
    """A node with its directory; it can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._properties = directory / "server.properties"
        self._output = directory / "output.txt"
        self._process: subprocess.Popen[bytes] | None = None
        port, controller = _free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        directory.mkdir(exist_ok=True)
        self._properties.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={self.data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""
        )
        cluster_id = java("kafka.tools.StorageTool", "random-uuid").split()[-1]
        format_ = ["format", "-t", cluster_id, "-c", str(self._properties)]
        java("kafka.tools.StorageTool", *format_)

    def start(self) -> None:
        """Run it, and wait until it answers."""
        log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        command = ["java", "-Xmx512m", log, "-cp", f"{jars()}/*", "kafka.Kafka"]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._output.read_text()[-3000:]
            try:
                self.admin().list_topics(timeout=1)
            except confluent_kafka.KafkaException:
                continue
            return
        raise AssertionError(f"no answer: {self._output.read_text()[-3000:]}")

    def stop(self) -> None:
        """End it in an orderly way, or at all."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def admin(self) -> AdminClient:
        """Return who asks for topics."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """Make a topic; config: Kafka's names with underscores."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(name, partitions, 1, config=settings)
        admin = self.admin()  # its end would take the answer with it
        admin.create_topics([topic])[name].result(SECONDS)

    def end(self, topic: str, partition: int) -> int:
        """Return where a partition ends."""
        place = confluent_kafka.TopicPartition(topic, partition)
        spec = confluent_kafka.admin.OffsetSpec.latest()
        admin = self.admin()
        return int(admin.list_offsets({place: spec})[place].result(SECONDS).offset)


@contextlib.contextmanager
def running_broker(directory: Path) -> Iterator[Broker]:
    """Run a broker until the end of the block."""
    broker = Broker(directory)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
