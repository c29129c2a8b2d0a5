"""The testbed itself: real servers that keep their data, leave nothing running, and a truth that can be trusted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kbackupd.testbed import java
from kbackupd.testbed.java import KAFKA_VERSION, cache_directory, kafka_tool, shared_classes
from kbackupd.testbed.kafka import KafkaCluster, KafkaServer
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import GuardedProcess, ServerFailedError, group_members
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import create_topic, delete_topic, partition_leaders
from kbackupd.testbed.truth import (
    Outcome,
    Truth,
    compare_records,
    expected,
    raw_log,
    read_topic,
    split_batches,
)
from kbackupd.testbed.workload import (
    CODECS,
    Codec,
    Draft,
    LiveLoad,
    PlainStream,
    RecordMaker,
    TransactionalStream,
    produce,
    produce_transaction,
)
from tests.integration.conditions import PATIENCE_SECONDS

Topic = Callable[[], str]


def differences(kafka: KafkaServer, truth: Truth) -> list[str]:
    """Every difference between what the truth says and what a committed reader finds, over all topics."""
    found = []
    for topic, partitions in truth.topics.items():
        read = read_topic(kafka.bootstrap, topic)
        assert sorted(read) == list(range(partitions))
        for partition, records in read.items():
            found += [
                f"{topic}-{partition}: {one}" for one in compare_records(truth.records(topic, partition), records)
            ]
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


class TestServers:
    def test_a_killed_broker_comes_back_on_its_port_with_its_data_and_close_leaves_nothing(self) -> None:
        truth = Truth()
        maker = RecordMaker("kill")
        with KafkaServer() as kafka:
            create_topic(kafka.bootstrap, "kept", partitions=2)
            truth.know_topic("kept", 2)
            produce(kafka.bootstrap, truth, "kept", [maker.draft(i % 2) for i in range(500)])
            bootstrap, first_life = kafka.bootstrap, kafka.pid
            kafka.kill()
            assert not kafka.running
            kafka.start()
            assert kafka.bootstrap == bootstrap
            assert kafka.pid != first_life
            assert differences(kafka, truth) == []
            second_life, directory = kafka.pid, kafka.directory
            assert second_life is not None
        assert first_life is not None
        wait_until(lambda: group_members(first_life) + group_members(second_life) == [])
        assert not directory.exists()

    def test_a_destroyed_cluster_starts_empty_with_another_identity(self) -> None:
        with KafkaServer() as kafka:
            create_topic(kafka.bootstrap, "lost")
            before = kafka.cluster_id
            kafka.destroy()
            assert not kafka.data.exists()
            kafka.start()
            assert kafka.cluster_id != before
            assert partition_leaders(kafka.bootstrap, "lost") == {}

    def test_a_broker_that_cannot_start_says_why_and_is_not_left_running(self) -> None:
        kafka = KafkaServer()
        try:
            with socket.create_server(("127.0.0.1", kafka.port)), pytest.raises(ServerFailedError) as failure:
                kafka.start()
            assert "died while starting" in str(failure.value)
            assert "Address already in use" in str(failure.value)
            assert not kafka.running
        finally:
            kafka.close()

    def test_three_nodes_form_one_cluster_that_survives_the_loss_of_one(self) -> None:
        with KafkaCluster(3, heap="256m") as cluster:
            truth = Truth()
            create_topic(cluster.bootstrap, "replicated", partitions=3, replication_factor=3)
            truth.know_topic("replicated", 3)
            cluster.nodes[0].kill()
            survivors = cluster.nodes[1]
            maker = RecordMaker("cluster")
            produce(survivors.bootstrap, truth, "replicated", [maker.draft() for _ in range(200)])
            assert differences(survivors, truth) == []
            cluster.start()
            assert all(node.running for node in cluster.nodes)

    def test_brokers_and_tools_map_the_classes_that_a_broker_noted(self, kafka: KafkaServer) -> None:
        assert str(shared_classes()) in Path(f"/proc/{kafka.pid}/maps").read_text()
        said = kafka_tool("kafka.tools.StorageTool", "random-uuid")
        assert len(said.split()) == 1

    def test_damaged_shared_classes_are_done_without_and_no_tool_prints_a_word_about_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remembered = next(cache_directory().glob(f"kafka-{KAFKA_VERSION}.json"))
        whole = shared_classes().read_bytes()
        monkeypatch.setattr(java, "cache_directory", lambda: tmp_path)
        (tmp_path / remembered.name).write_bytes(remembered.read_bytes())
        for damaged in (whole[: len(whole) // 2], b"", os.urandom(1000)):
            shared_classes().write_bytes(damaged)
            assert len(kafka_tool("kafka.tools.StorageTool", "random-uuid").split()) == 1

    async def test_starting_and_stopping_leaves_the_event_loop_free(self) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        s3 = S3Server()
        try:
            async with asyncio.TaskGroup() as tasks:
                counting = tasks.create_task(count())
                await s3.astart()
                await s3.astop()
                counting.cancel()
        finally:
            s3.close()
        assert turns > 50

    @pytest.mark.parametrize("port", ["s3.port", "filer.port"])
    def test_an_s3_server_whose_port_somebody_took_starts_on_others(self, port: str) -> None:
        s3 = S3Server()
        with socket.create_server(("127.0.0.1", s3._ports[port])) as taken, s3:
            assert taken.getsockname()[1] not in s3._ports.values()
            s3.create_bucket("there")
            s3.kill()
            s3.start()
            assert s3.list_objects("there") == {}

    def test_a_killed_s3_server_comes_back_with_its_objects_and_close_leaves_nothing(self) -> None:
        body = os.urandom(3 << 20)
        with S3Server() as s3:
            s3.create_bucket("kept")
            assert s3.client().request("PUT", "/kept/some/key", body=body)[0] == 200
            first_life = s3.pid
            s3.kill()
            s3.start()
            assert s3.client().request("GET", "/kept/some/key") == (200, body)
            second_life, directory = s3.pid, s3.directory
        assert first_life is not None
        assert second_life is not None
        wait_until(lambda: group_members(first_life) + group_members(second_life) == [])
        assert not directory.exists()

    def test_s3_refuses_to_overwrite_when_asked_to_create_only(
        self, s3_server: S3Server, s3_bucket: str, s3_prefix: str
    ) -> None:
        client = s3_server.client()
        path = f"/{s3_bucket}/{s3_prefix}/once"
        assert client.request("PUT", path, headers={"If-None-Match": "*"}, body=b"first")[0] == 200
        assert client.request("PUT", path, headers={"If-None-Match": "*"}, body=b"second")[0] == 412
        assert client.request("GET", path) == (200, b"first")

    def test_a_server_ends_when_the_interpreter_that_started_it_is_killed(self, tmp_path: Path) -> None:
        script = (
            "import sys, pathlib, time\n"
            "from kbackupd.testbed.process import GuardedProcess\n"
            "here = pathlib.Path(sys.argv[1])\n"
            "child = GuardedProcess('sleeper', ['sleep', '600'], log=here / 'log', cwd=here, env={})\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        owner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        try:
            assert owner.stdout is not None
            group = int(owner.stdout.readline())
            assert group in group_members(group)
        finally:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            owner.stdout and owner.stdout.close()
        wait_until(lambda: group_members(group) == [])

    def test_a_server_that_is_kept_outlives_its_interpreter(self, tmp_path: Path) -> None:
        script = (
            "import sys, pathlib\n"
            "from kbackupd.testbed.process import GuardedProcess\n"
            "here = pathlib.Path(sys.argv[1])\n"
            "child = GuardedProcess('sleeper', ['sleep', '600'], log=here / 'log', cwd=here, env={})\n"
            "child.keep()\n"
            "print(child.pid)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        group = int(done.stdout)
        try:
            # The guard leaves by itself; the server is what stays.
            wait_until(lambda: group_members(group) == [group])
        finally:
            os.killpg(group, signal.SIGKILL)

    def test_stopping_a_server_releases_its_guard(self, tmp_path: Path) -> None:
        child = GuardedProcess("sleeper", ["sleep", "600"], log=tmp_path / "log", cwd=tmp_path, env={})
        assert child.stop(deadline_seconds=60.0)
        wait_until(lambda: group_members(child.pid) == [])

    def test_free_ports_differ_and_cannot_be_given_to_a_passing_connection(self) -> None:
        first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        ports = free_ports(20)
        assert len(set(ports)) == 20
        assert max(ports) < first_ephemeral


class TestTruth:
    @pytest.mark.parametrize("codec", CODECS)
    def test_what_was_produced_is_what_an_independent_reader_finds(
        self, kafka: KafkaServer, unique_topic: Topic, codec: Codec
    ) -> None:
        truth, topic, maker = Truth(), unique_topic(), RecordMaker(codec)
        create_topic(kafka.bootstrap, topic, partitions=3)
        truth.know_topic(topic, 3)
        produce(kafka.bootstrap, truth, topic, [maker.draft() for _ in range(1_000)], codec=codec)
        assert truth.record_count == 1_000
        assert differences(kafka, truth) == []

    def test_null_and_empty_are_told_apart_all_the_way(self, kafka: KafkaServer, unique_topic: Topic) -> None:
        truth, topic = Truth(), unique_topic()
        create_topic(kafka.bootstrap, topic)
        drafts = [
            Draft(None, None),
            Draft(b"", b""),
            Draft(b"k", None, (("h", None), ("h", b""), ("h", b"\xff"))),
            Draft(b"k", b"v", (), None, 86_400_000),
        ]
        produce(kafka.bootstrap, truth, topic, drafts)
        records = read_topic(kafka.bootstrap, topic)[0]
        assert [(r.key, r.value, r.headers) for r in records] == [(d.key, d.value, d.headers) for d in drafts]
        assert records[3].timestamp_ms == 86_400_000
        assert compare_records(truth.records(topic, 0), records) == []

    def test_an_empty_topic_and_one_that_ends_in_a_control_marker_are_read_to_their_end(
        self, kafka: KafkaServer, unique_topic: Topic
    ) -> None:
        truth, topic, maker = Truth(), unique_topic(), RecordMaker("transactions")
        create_topic(kafka.bootstrap, topic, partitions=2)
        truth.know_topic(topic, 2)
        for outcome in (Outcome.COMMITTED, Outcome.ABORTED):
            drafts = [(topic, maker.draft(0)) for _ in range(10)]
            produce_transaction(kafka.bootstrap, truth, drafts, outcome=outcome)
        assert differences(kafka, truth) == []
        everything = read_topic(kafka.bootstrap, topic, isolation="read_uncommitted")
        assert [len(everything[0]), len(everything[1])] == [20, 0]
        assert compare_records(truth.records(topic, 0, isolation="read_uncommitted"), everything[0]) == []
        assert len(truth.records(topic, 0)) == 10

    def test_a_hanging_transaction_hides_its_records_and_nothing_hangs(
        self, kafka: KafkaServer, unique_topic: Topic
    ) -> None:
        truth, topic = Truth(), unique_topic()
        create_topic(kafka.bootstrap, topic)
        produce(kafka.bootstrap, truth, topic, [Draft(None, b"before")])
        hanging = [(topic, Draft(None, b"never decided"))]
        produce_transaction(kafka.bootstrap, truth, hanging, outcome=Outcome.OPEN, transactional_id=topic)
        assert [r.value for r in read_topic(kafka.bootstrap, topic)[0]] == [b"before"]
        assert differences(kafka, truth) == []
        # The next holder of the id aborts it, so that nothing is left hanging in the shared broker.
        produce_transaction(
            kafka.bootstrap, truth, [(topic, Draft(None, b"after"))], outcome=Outcome.COMMITTED, transactional_id=topic
        )
        assert [r.value for r in read_topic(kafka.bootstrap, topic)[0]] == [b"before", b"after"]

    def test_live_load_stays_exact_while_the_broker_is_killed_and_restarted(self) -> None:
        truth = Truth()
        with KafkaServer() as kafka:
            for topic in ("plain", "ledger", "audit"):
                create_topic(kafka.bootstrap, topic, partitions=2)
                truth.know_topic(topic, 2)
            streams: list[PlainStream | TransactionalStream] = [
                PlainStream(topic="plain", codec="lz4", records_per_second=500),
                TransactionalStream(topics=("ledger", "audit"), records_per_transaction=10, abort_share=0.4),
            ]
            with LiveLoad(kafka.bootstrap, truth, streams, seed=7):
                wait_until(lambda: truth.outcomes[Outcome.ABORTED] > 0 and truth.outcomes[Outcome.COMMITTED] > 0)
                before = truth.record_count
                kafka.kill()
                kafka.start()
                wait_until(lambda: truth.record_count > before + 200)
            assert truth.outcomes[Outcome.OPEN] == 0
            assert differences(kafka, truth) == []

    def test_raw_log_is_whole_batches_without_a_hole_and_kafkas_own_tool_reads_it(
        self, kafka: KafkaServer, unique_topic: Topic, tmp_path: Path
    ) -> None:
        truth, topic, maker = Truth(), unique_topic(), RecordMaker("raw")
        create_topic(kafka.bootstrap, topic, config={"segment.bytes": str(1 << 20)})
        for codec in CODECS:
            produce(kafka.bootstrap, truth, topic, [maker.draft() for _ in range(2_000)], codec=codec)
        assert len(list(kafka.log_dir(topic, 0).glob("*.log"))) > 1
        raw = raw_log(kafka, topic, 0)
        batches = list(split_batches(raw))
        assert batches[0].first_offset == 0
        assert all(one.next_offset == two.first_offset for one, two in itertools.pairwise(batches))
        assert batches[-1].next_offset == 10_000
        assert b"".join(batch.data for batch in batches) == raw
        copy = tmp_path / "00000000000000000000.log"
        copy.write_bytes(raw)
        dump = kafka_tool("org.apache.kafka.tools.DumpLogSegments", "--files", str(copy), "--deep-iteration")
        assert len(re.findall(r"^\| offset: ", dump, re.MULTILINE)) == 10_000
        assert dump.count("isvalid: true") == len(batches)

    def test_a_deleted_topic_is_gone_on_return(self, kafka: KafkaServer, unique_topic: Topic) -> None:
        topic = create_topic(kafka.bootstrap, unique_topic(), partitions=3)
        delete_topic(kafka.bootstrap, topic)
        assert partition_leaders(kafka.bootstrap, topic) == {}

    def test_one_reading_can_be_the_expectation_for_another(self, kafka: KafkaServer, unique_topic: Topic) -> None:
        truth, maker = Truth(), RecordMaker("copy")
        source, copy = create_topic(kafka.bootstrap, unique_topic()), create_topic(kafka.bootstrap, unique_topic())
        produce(kafka.bootstrap, truth, copy, [Draft(None, b"shifts every offset by one")])
        # Of today: retention, which the testbed's brokers look after every second, would take older ones away.
        began_ms = int(time.time() * 1000)
        records = [maker.draft(0)._replace(timestamp_ms=began_ms + i) for i in range(100)]
        for topic in (source, copy):
            produce(kafka.bootstrap, truth, topic, records)
        wanted = expected(read_topic(kafka.bootstrap, source)[0])
        found = read_topic(kafka.bootstrap, copy)[0][1:]
        assert compare_records(wanted, found, offsets=False) == []
        assert compare_records(wanted, found) != []


def processes_mentioning(text: str) -> list[str]:
    """Command lines of live processes that contain `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in command and int(entry.name) != os.getpid():
                found.append(command)
    return found


class TestDemo:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_a_demo_that_is_cut_short_leaves_nothing_running(self, short_path: Path, how: signal.Signals) -> None:
        demo = subprocess.Popen(
            [sys.executable, "-m", "kbackupd.testbed.demo"],
            env={**os.environ, "TMPDIR": str(short_path), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert demo.stdout is not None
            shown = []
            for line in demo.stdout:
                shown.append(line)
                if "start the daemon" in line:
                    break
            assert shown[-1].startswith("✓ start the daemon"), "".join(shown)
            assert len(processes_mentioning(str(short_path))) >= 3
            demo.send_signal(how)
            rest, _ = demo.communicate(timeout=PATIENCE_SECONDS)
            assert demo.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130), "".join([*shown, rest])
        finally:
            demo.kill()
            demo.wait()
        wait_until(lambda: processes_mentioning(str(short_path)) == [])
        if how is not signal.SIGKILL:
            assert list(short_path.iterdir()) == []
