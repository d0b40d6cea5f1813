"""A cluster of three real brokers of Apache Kafka, each controller as well, out of Maven Central.

Its libraries are 100 MB, and it takes half a minute to start, so its tests run where `OUTPOST_KAFKA_CLUSTER` names
a folder that has them, or gets them from `mvn`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from outpost.embedded import process
from tests.harness import servers

VERSION = "4.1.0"
VARIABLE = "OUTPOST_KAFKA_CLUSTER"
BROKERS = 3
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
START_S, FETCH_S, POLL_S = 180.0, 300.0, 0.2
JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>cluster</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
</dependency></dependencies></project>
"""
PROPERTIES = """process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/logs
num.network.threads=2
num.io.threads=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
default.replication.factor=3
min.insync.replicas=2
auto.create.topics.enable=false
"""


def missing() -> str:
    """Why the tests of the cluster do not run here; "" if they do."""
    if not os.environ.get(VARIABLE):
        return f"a cluster of Apache Kafka is started where {VARIABLE} names a folder for its libraries"
    return "" if shutil.which("java") and (_has_libraries() or shutil.which("mvn")) else "apt-get install maven"


def _libraries() -> Path:
    return Path(os.environ[VARIABLE]) / VERSION


def _has_libraries() -> bool:
    return (_libraries() / f"kafka_2.13-{VERSION}.jar").exists()


def _fetch() -> None:
    if _has_libraries():
        return
    folder = servers.new_folder()
    (folder / "pom.xml").write_text(POM)
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder}/fetched"]
    subprocess.run([*command, "-DincludeScope=runtime"], cwd=folder, check=True, timeout=FETCH_S)
    _libraries().parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder / "fetched", _libraries(), dirs_exist_ok=True)
    shutil.rmtree(folder)


class Broker:
    """One of the cluster: killed, paused and started again by its test."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _java("kafka.Kafka", str(self._folder / "server.properties")), stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """At once, and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """`with` starts it; a start takes some 30 s."""

    def __enter__(self) -> Self:
        _fetch()
        self._folder = servers.new_folder()
        places = [(process.free_port(), process.free_port()) for _ in range(BROKERS)]
        voters = ",".join(f"{number}@127.0.0.1:{control}" for number, (_, control) in enumerate(places, 1))
        self.brokers: list[Broker] = []
        for number, (port, control) in enumerate(places, 1):
            folder = self._folder / str(number)
            folder.mkdir()
            values = {"number": number, "voters": voters, "port": port, "control": control, "folder": folder}
            (folder / "server.properties").write_text(PROPERTIES.format(**values))
            format_ = _java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c")
            subprocess.run(
                [*format_, str(folder / "server.properties")], check=True, capture_output=True, timeout=START_S
            )
            self.brokers.append(Broker(folder, port))
        for broker in self.brokers:
            broker.start()
        self.bootstrap = ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)
        deadline = time.monotonic() + START_S
        while not self._listens():
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
        return self

    def __exit__(self, *_: object) -> None:
        for broker in self.brokers:
            broker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listens(self) -> bool:
        return not any(process.port_is_free(broker.port) for broker in self.brokers)


def _java(*words: str) -> list[str]:
    return [*JAVA, "-cp", f"{_libraries()}/*", *words]
