"""A restore to an instant that is killed and run again, while a daemon goes on archiving, ends with the one state.

Hazards 27 to 29 and 38: what a transaction's fate is must not depend on how much of the archive a later run could see.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kbackupd.model.scope import RestoreScope
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.truth import read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.restore.test_command import call, start, write_config
from tests.integration.restore.test_resume import PARTITIONS, documents, killed_at, values
from tests.unit.restore.test_as_of import plan_at, restored
from tests.unit.restore.transactional_source import TransactionalSource

Names = Callable[[], str]
SLOW = "rate_limit: 15KiB"
"""Of a run that is to be killed: long enough that one look at the topic does not outlast its second half."""
LATER_SECONDS = 60


def put_on_disk(built: ArchiveBuilder, root: Path) -> None:
    for key, data in built.store.objects.items():
        path = root / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def go_on(source: TransactionalSource, dice: random.Random, steps: int) -> None:
    """Producers write and end transactions over all partitions; leaders are heard of now and then."""
    for _ in range(steps):
        source.tick()
        partition, producer = dice.randrange(PARTITIONS), dice.choice((7, 8))
        match dice.choice(("plain", "write", "write", "end", "end", "hear")):
            case "plain":
                source.write_plain(partition)
            case "write":
                source.write(producer, partition)
            case "end":
                source.go_on(producer, commit=dice.random() < 0.7)
            case _:
                source.hear(dice.randrange(-1, PARTITIONS), capture=True)


async def durable(source: TransactionalSource, root: Path) -> None:
    await source.life.flush()
    await asyncio.to_thread(put_on_disk, source.built, root)


def killed_when_ready(process: subprocess.Popen[str], root: Path, restores: int) -> bool:
    """Kill it as soon as it is the `restores`-th to have written down where records begin; False: it ended before."""
    deadline = time.monotonic() + 120
    while process.poll() is None and len(documents(root, "ready")) < restores:
        assert time.monotonic() < deadline, "no topic is ready"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("own_epochs", [True, False], ids=["an epoch for each transaction", "one for all"])
@pytest.mark.parametrize("offsets", ["compact", "preserve"])
async def test_hazard_38_killed_at_several_points_while_the_archive_grows_it_is_the_state_of_the_instant(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path, own_epochs: bool, offsets: str
) -> None:
    dice = random.Random(20261126)
    source = await TransactionalSource.create(PARTITIONS, own_epochs=own_epochs, padding=bytes(600))
    go_on(source, dice, 900)
    await durable(source, tmp_path)
    # Segments are stored after answers are heard: what comes between is of the instant, and not in the archive yet.
    at_ms = source.now() + LATER_SECONDS * 1_000
    wanted = source.state(at_ms)
    everything = sum(map(len, wanted.values()))
    first, target = unique_topic(), unique_topic()
    options = (f"as_of: {at_ms}", f"offsets: {offsets}")
    assert call("--config", str(write_config(tmp_path, kafka.bootstrap, first, *options)))[0] == 0

    config = write_config(tmp_path, kafka.bootstrap, target, *options, SLOW)
    for number, records in enumerate((0, everything // 8, everything // 4, everything // 2)):
        process = start("--config", str(config))
        if records:
            assert killed_at(process, kafka, target, records)
        else:
            assert killed_when_ready(process, tmp_path, restores=2)
        if number == 2:
            source.built.clock.advance(LATER_SECONDS)
        go_on(source, dice, 200)
        await durable(source, tmp_path)

    write_config(tmp_path, kafka.bootstrap, target, *options)
    code, out, err = call("--config", str(config), "--format", "json")

    assert (code, err) == (0, "")
    assert json.loads(out)["records_found"] > 0
    assert values(kafka, target) == wanted
    assert read_topic(kafka.bootstrap, target) == read_topic(kafka.bootstrap, first)
    assert len(documents(tmp_path, "begun")) == 2, "of the other restore, and of this one"
    now = await restored(source.built, await plan_at(source.built, RestoreScope(as_of_ms=at_ms)))
    assert now == source.state(at_ms) != wanted, "the archive tells more of that instant by now"
