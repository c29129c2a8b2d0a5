"""list, describe, validate and dump on an archive that a real daemon made of a real Kafka in a real S3."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kbackupd.format import keys
from kbackupd.testbed.daemon import Daemon, Finished, kbackupd_environment, run_kbackupd
from kbackupd.testbed.java import kafka_tool
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Outcome, Truth
from kbackupd.testbed.workload import CODECS, RecordMaker, produce, produce_transaction
from tests.integration.verbatim import broker_batches, overrides

PER_CODEC = 200


@dataclass(frozen=True)
class Backup:
    """One archive for the tests of this module; whoever damages it puts it right again."""

    kafka: KafkaServer
    s3: S3Server
    bucket: str
    path: str
    plain: str
    transactional: str
    empty: str
    directory: Path

    def cli(self, *arguments: str, environment: dict[str, str] | None = None) -> Finished:
        return run_kbackupd(
            self.directory, *arguments, environment=environment or kbackupd_environment(self.s3), deadline_seconds=120
        )

    def verb(self, name: str, *arguments: str) -> Finished:
        return self.cli(name, "--path", self.path, "--backup-id", "main", *arguments)

    def objects(self) -> list[str]:
        """Keys relative to the archive."""
        prefix = self.path.removeprefix(f"s3://{self.bucket}/") + "/main/"
        return sorted(key.removeprefix(prefix) for key in self.s3.list_objects(self.bucket, prefix))

    def get(self, key: str) -> bytes:
        status, body = self.s3.client().request("GET", self._url(key))
        assert status == 200
        return body

    def put(self, key: str, data: bytes) -> None:
        status, _ = self.s3.client().request("PUT", self._url(key), body=data)
        assert status == 200

    def delete(self, key: str) -> None:
        status, _ = self.s3.client().request("DELETE", self._url(key))
        assert status == 204

    def _url(self, key: str) -> str:
        return f"/{self.path.removeprefix('s3://')}/main/{key}"


@pytest.fixture(scope="module")
def backup(kafka: KafkaServer, s3_server: S3Server, s3_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    directory = tmp_path_factory.mktemp("v")
    plain, transactional, empty = (f"validate-{kind}" for kind in ("plain", "transactional", "empty"))
    truth, maker = Truth(), RecordMaker("validate")
    create_topic(kafka.bootstrap, plain, partitions=2)
    create_topic(kafka.bootstrap, transactional)
    create_topic(kafka.bootstrap, empty, partitions=3)
    daemon = Daemon(
        directory,
        bootstrap=kafka.bootstrap,
        s3=s3_server,
        bucket=s3_bucket,
        prefix="validate-verbs",
        overrides=overrides([plain, transactional, empty]),
    )
    try:
        daemon.start()
        for codec in CODECS:
            produce(kafka.bootstrap, truth, plain, [maker.draft() for _ in range(PER_CODEC)], codec=codec)
            daemon.ctl("flush")
        for outcome in (Outcome.COMMITTED, Outcome.ABORTED):
            drafts = [(transactional, maker.draft()) for _ in range(20)]
            produce_transaction(kafka.bootstrap, truth, drafts, outcome=outcome)
        daemon.ctl("flush")
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    return Backup(
        kafka=kafka,
        s3=s3_server,
        bucket=s3_bucket,
        path=daemon.path,
        plain=plain,
        transactional=transactional,
        empty=empty,
        directory=directory,
    )


def test_the_archive_is_listed_described_and_valid_to_the_last_byte(backup: Backup) -> None:
    listed = backup.cli("list", "--path", backup.path, "--format", "json").json()
    assert isinstance(listed["archives"], list)
    assert [one["backup_id"] for one in listed["archives"] if isinstance(one, dict)] == ["main"]
    described = json.loads(backup.verb("describe", "--format", "json").require(0).stdout)
    topics = {topic["name"]: topic for topic in described["topics"]}
    assert len(topics[backup.empty]["partitions"]) == 3
    for partition in topics[backup.plain]["partitions"]:
        batches = broker_batches(backup.kafka, backup.plain, partition["partition"])
        assert partition["batches"] == len(batches)
        assert partition["raw_bytes"] == sum(len(data) for _, data in batches)
    checked = json.loads(
        backup.verb("validate", "--deep", "--format", "json", "--expect-topic", backup.empty).require(0).stdout
    )
    assert checked["findings"] == []
    assert checked["checked"]["topics"] == 3


@pytest.mark.parametrize(("kind", "partition"), [("plain", 0), ("plain", 1), ("transactional", 0)])
def test_a_dump_is_the_brokers_log_and_kafkas_own_tool_reads_it(
    backup: Backup, tmp_path: Path, kind: str, partition: int
) -> None:
    topic = backup.plain if kind == "plain" else backup.transactional
    out = tmp_path / "00000000000000000000.log"
    backup.verb("dump", "--topic", topic, "--partition", str(partition), "--output", str(out)).require(0)
    batches = broker_batches(backup.kafka, topic, partition)
    assert out.read_bytes() == b"".join(data for _, data in batches)
    said = kafka_tool("org.apache.kafka.tools.DumpLogSegments", "--files", str(out), "--deep-iteration")
    assert said.count("isvalid: true") == len(batches)
    assert "isvalid: false" not in said
    last = batches[-1][1]
    next_offset = batches[-1][0] + int.from_bytes(last[23:27], "big") + 1
    assert len(re.findall(r"^\| offset: ", said, re.MULTILINE)) == next_offset


def test_a_part_of_a_partition_is_named_as_kafka_names_it_and_begins_with_the_batch_of_its_first_offset(
    backup: Backup, tmp_path: Path
) -> None:
    batches = broker_batches(backup.kafka, backup.plain, 0)
    begin, end = batches[1][0], batches[3][0]
    arguments = ("--topic", backup.plain, "--partition", "0", "--from", str(begin), "--to", str(end))
    backup.verb("dump", *arguments, "--output", str(tmp_path)).require(0)
    out = tmp_path / f"{begin:020d}.log"
    assert out.read_bytes() == batches[1][1] + batches[2][1]
    said = kafka_tool("org.apache.kafka.tools.DumpLogSegments", "--files", str(out))
    assert f"Log starting offset: {begin}" in said
    assert said.count("isvalid: true") == 2


def test_one_flipped_bit_in_the_bucket_is_found_and_placed(backup: Backup) -> None:
    key = next(key for key in backup.objects() if keys.parse_segment_key(key) and len(backup.get(key)) > 10_000)
    data = backup.get(key)
    flipped = bytearray(data)
    flipped[5_000] ^= 1
    backup.put(key, bytes(flipped))
    try:
        report = json.loads(backup.verb("validate", "--deep", "--format", "json").require(3).stdout)
    finally:
        backup.put(key, data)
    placed = [one for one in report["findings"] if one["object"] == key and one["topic"] is not None]
    assert placed
    assert placed[0]["topic"] in (backup.plain, backup.transactional)
    assert placed[0]["first_offset"] < placed[0]["next_offset"]


def test_a_deleted_segment_is_an_error_and_a_deleted_checkpoint_is_not(backup: Backup) -> None:
    segment = next(key for key in backup.objects() if keys.parse_segment_key(key))
    checkpoint = next(key for key in backup.objects() if keys.parse_checkpoint_key(key))
    for key, exit_code in ((segment, 3), (checkpoint, 0)):
        data = backup.get(key)
        backup.delete(key)
        try:
            assert key in backup.verb("validate", "--format", "json").require(exit_code).stdout or exit_code == 0
        finally:
            backup.put(key, data)


def test_denied_and_unreachable_end_with_4_and_are_never_called_valid_or_damaged(backup: Backup) -> None:
    right = kbackupd_environment(backup.s3)
    arguments = ("validate", "--path", backup.path, "--backup-id", "main")
    for wrong in ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}):
        ended = backup.cli(*arguments, environment=right | wrong)
        assert ended.exit_code == 4, ended.stderr
        assert "VALID" not in ended.stdout


async def test_an_archive_being_written_is_valid_at_any_moment(
    backup: Backup, unique_topic: Callable[[], str], short_path: Path, s3_prefix: str
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic(), partitions=2)
    daemon = Daemon(
        short_path,
        bootstrap=backup.kafka.bootstrap,
        s3=backup.s3,
        bucket=backup.bucket,
        prefix=s3_prefix,
        overrides=overrides([topic]),
    )
    truth, maker = Truth(), RecordMaker("written")
    try:
        await asyncio.to_thread(daemon.start)
        for _ in range(4):
            await asyncio.to_thread(produce, backup.kafka.bootstrap, truth, topic, [maker.draft() for _ in range(500)])
            checked = await asyncio.to_thread(daemon.cli, "validate", "--config", str(daemon.config), "--deep")
            assert checked.exit_code == 0, checked.stdout + checked.stderr
        daemon.kill()
        killed = await asyncio.to_thread(daemon.cli, "validate", "--config", str(daemon.config), "--deep")
        assert killed.exit_code == 0, killed.stdout + killed.stderr
    finally:
        daemon.kill()
