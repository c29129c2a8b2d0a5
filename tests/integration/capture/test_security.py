"""Source and target behind TLS and SASL: every protocol and mechanism on a real broker, exact to the byte.

One broker with a listener for each way in, and a proxy before one of them that breaks connections below TLS.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer

from kbackupd.testbed.certificates import CertificateAuthority
from kbackupd.testbed.covered import flush_to_the_ends
from kbackupd.testbed.daemon import Daemon, Finished, Json, Section
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.listeners import MECHANISMS, Listener, listener
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.tcp_proxy import Break, TcpProxy
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import compare_records, expected, read_topic
from tests.integration.capture.backup import Backup, fill, follows, problems, rewritten
from tests.integration.conditions import reaches

USER, PASSWORD = "keeper", "pass-Word-of-the-keeper"
STRANGER = "stranger"
WRONG = "not-the-Pass-word"
BIG, MANY = "big", "many"
TOPICS = {BIG: 2, MANY: 60}
BATCH_BYTES = 3 << 20
SESSION_MS = 1_500
"""After which the proxied listener ends a session that began with PLAIN, unless its client proves itself again."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to come to the broker: a listener's name, and a mechanism where it wants one."""

    listener: str
    mechanism: str = ""

    def __str__(self) -> str:
        return f"{self.listener}-{self.mechanism}".strip("-")


THERE_AND_BACK = [Way("TLS"), Way("MUTUAL"), Way("LOGIN", "PLAIN"), Way("SECURE", "SCRAM-SHA-512")]
THERE = [
    way
    for way in (Way(name, mechanism) for name in ("LOGIN", "SECURE") for mechanism in MECHANISMS)
    if way not in THERE_AND_BACK
]
"""What the others prove of restoring holds for them: what differs is over before the first request."""


class Guarded:
    """The broker, the authority that signs for it, and what a client must know for each of its listeners."""

    def __init__(self, directory: Path) -> None:
        self.authority = CertificateAuthority(directory)
        self.stranger = CertificateAuthority(directory, "stranger")
        self.own = self.authority.issue("own")
        certificate = self.authority.issue("broker")
        (outside,) = free_ports(1)
        listeners = [
            listener("TLS", "SSL", certificate=certificate),
            listener("MUTUAL", "SSL", certificate=certificate, clients_of=self.authority.certificate),
            listener("LOGIN", "SASL_PLAINTEXT"),
            listener("SECURE", "SASL_SSL", certificate=certificate),
            listener("OUTSIDE", "SASL_SSL", certificate=certificate, advertised_port=outside),
            listener("EXPIRED", "SSL", certificate=self.authority.issue("expired", expired=True)),
            listener("ELSEWHERE", "SSL", certificate=self.authority.issue("elsewhere", hosts=["kafka.example.org"])),
        ]
        self.listeners: dict[str, Listener] = {one.name: one for one in listeners}
        self.proxy = TcpProxy(self.listeners["OUTSIDE"].port, port=outside)
        self.kafka = KafkaServer(
            listeners=listeners,
            users={USER: PASSWORD, STRANGER: PASSWORD},
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": f"User:ANONYMOUS;User:{USER};User:CN=own",
                "listener.name.outside.plain.connections.max.reauth.ms": str(SESSION_MS),
            },
        )

    def cluster(self, way: Way, *, user: str = USER, password: str = PASSWORD, **changes: Json) -> Section:
        """Keys of `source` and `restore.target`; `changes` to `security`, None removes."""
        at = self.listeners[way.listener]
        security: Section = {"protocol": at.protocol}
        if at.certificate is not None:
            security["ca_file"] = str(self.authority.certificate)
        if at.clients_of is not None:
            security |= {"cert_file": str(self.own.certificate), "key_file": str(self.own.key)}
        if way.mechanism:
            security["sasl"] = {"mechanism": way.mechanism, "username": user, "password": password}
        security |= changes
        kept: Section = {key: value for key, value in security.items() if value is not None}
        return {"bootstrap_servers": [at.bootstrap], "security": kept}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    with made.proxy, made.kafka:
        for topic, partitions in TOPICS.items():
            config = {"max.message.bytes": str(2 * BATCH_BYTES)}
            create_topic(made.kafka.bootstrap, topic, partitions=partitions, config=config)
        fill(made.kafka, MANY, *range(TOPICS[MANY]), batches=1, records=3)
        _produce_big(made.kafka)
        yield made


def _produce_big(kafka: KafkaServer) -> None:
    """Three batches of `BATCH_BYTES` to each partition, of bytes no codec makes smaller."""
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "message.max.bytes": 2 * BATCH_BYTES, "log_level": 0, "linger.ms": 0}
    )
    chance = random.Random(7)
    for number in range(3 * TOPICS[BIG]):
        producer.produce(BIG, chance.randbytes(BATCH_BYTES), b"%d" % number, partition=number % TOPICS[BIG])
        assert producer.flush(120) == 0


@pytest.fixture
def backup(guarded: Guarded, s3_server: S3Server, short_path: Path) -> Iterator[Backup]:
    """As elsewhere, of the guarded broker, in a directory."""
    made = Backup(guarded.kafka, s3_server, "unused", "unused", short_path)
    store = short_path / "store"
    store.mkdir()
    made.keep_on(store)
    yield made
    made.close()


def coming(daemon: Daemon, cluster: Section) -> Daemon:
    """`daemon`, told to come to its source that way."""
    rewritten(daemon, lambda document: document["source"].update(cluster))
    return daemon


def once(daemon: Daemon) -> Finished:
    return daemon.cli("run", "--once", "--config", str(daemon.config))


def restoring(daemon: Daemon, store: Path, target: Section, suffix: str, *topics: str, **options: Json) -> Finished:
    """`kbackupd restore` of `topics` to names with that suffix."""
    mapping: list[Json] = [{"source": topic, "target": topic + suffix} for topic in topics]
    config = daemon.directory / "restore.yaml"
    source: Section = {"path": f"file://{store}", "backup_id": daemon.backup_id}
    restore: Section = {"source": source, "target": target, "options": {"topic_mapping": mapping, **options}}
    config.write_text(yaml.safe_dump({"restore": restore}))
    return daemon.cli("restore", "--config", str(config))


def same_records(kafka: KafkaServer, topic: str, restored: str) -> None:
    wanted, found = read_topic(kafka.bootstrap, topic), read_topic(kafka.bootstrap, restored)
    assert found.keys() == wanted.keys()
    for number, records in wanted.items():
        assert records
        assert compare_records(expected(records), found[number]) == [], f"{restored}/{number}"


def tells_no_secret(directory: Path) -> None:
    """Hazard 48: nothing that a daemon or a verb printed or logged there has a password in it."""
    printed = [path for path in directory.rglob("*") if path.suffix in (".out", ".err", ".log")]
    assert printed
    for path in printed:
        text = path.read_text(errors="replace")
        assert PASSWORD not in text
        assert WRONG not in text


@pytest.mark.parametrize("way", THERE_AND_BACK, ids=str)
async def test_batches_of_megabytes_and_many_partitions_come_verbatim_and_go_back_that_way(
    guarded: Guarded, backup: Backup, short_path: Path, way: Way
) -> None:
    daemon = coming(backup.daemon(*TOPICS), guarded.cluster(way))

    once(daemon).require(0)

    assert await backup.verbatim(TOPICS, guarded.kafka) >= 3 * TOPICS[BIG] + TOPICS[MANY]
    suffix = f"-{way}"
    restoring(daemon, short_path / "store", guarded.cluster(way), suffix, *TOPICS).require(0)
    for topic in TOPICS:
        same_records(guarded.kafka, topic, topic + suffix)
    tells_no_secret(short_path)


@pytest.mark.parametrize("way", THERE, ids=str)
async def test_every_mechanism_with_and_without_tls_backs_up_to_the_byte(
    guarded: Guarded, backup: Backup, short_path: Path, way: Way
) -> None:
    daemon = coming(backup.daemon(*TOPICS), guarded.cluster(way))

    once(daemon).require(0)

    assert await backup.verbatim(TOPICS, guarded.kafka) >= 3 * TOPICS[BIG] + TOPICS[MANY]
    tells_no_secret(short_path)


async def test_hazard_41_connections_cut_reset_and_garbled_below_tls_lose_nothing_and_double_nothing(
    guarded: Guarded, backup: Backup, short_path: Path
) -> None:
    outside = guarded.cluster(Way("OUTSIDE", "SCRAM-SHA-512"))
    daemon = coming(backup.daemon(*TOPICS), outside)
    rules = [guarded.proxy.strike(how, after_bytes=BATCH_BYTES // 2, times=2) for how in Break]

    once(daemon).require(0)

    assert [len(rule.struck) for rule in rules] == [2, 2, 2]
    assert await backup.verbatim(TOPICS, guarded.kafka) >= 3 * TOPICS[BIG] + TOPICS[MANY]

    # Hazard 27: what was sent and not answered is sent again.
    rules = [
        guarded.proxy.strike(how, after_bytes=BATCH_BYTES // 2, of_requests=True, times=2)
        for how in (Break.RESET, Break.END)
    ]
    restoring(daemon, short_path / "store", outside, "-cut", *TOPICS).require(0)
    assert [len(rule.struck) for rule in rules] == [2, 2]
    for topic in TOPICS:
        same_records(guarded.kafka, topic, topic + "-cut")


async def test_a_broker_that_ends_sessions_which_do_not_prove_themselves_again_is_followed_all_the_same(
    guarded: Guarded, backup: Backup, unique_topic: Callable[[], str]
) -> None:
    topic = create_topic(guarded.kafka.bootstrap, unique_topic(), partitions=4)
    daemon = coming(backup.daemon(topic), guarded.cluster(Way("OUTSIDE", "PLAIN")))
    daemon.start()
    await follows(daemon, topic, 4)
    before = guarded.proxy.accepted
    # Each of its connections ends with a session: several times over, or it would not be several sessions.
    await reaches(lambda: guarded.proxy.accepted >= before + 6, "connections made anew")

    backup.fill(topic, 0, 1, 2, 3)
    # One flush may come between two sessions, and says that it had to do without their partitions.
    await asyncio.to_thread(flush_to_the_ends, daemon, guarded.kafka.bootstrap, {topic: 4})
    await backup.drained(daemon, {topic: 4}, guarded.kafka)


async def test_a_restore_outlives_the_sessions_its_target_ends(
    guarded: Guarded, backup: Backup, short_path: Path
) -> None:
    daemon = coming(backup.daemon(BIG), guarded.cluster(Way("TLS")))
    once(daemon).require(0)
    target = guarded.cluster(Way("OUTSIDE", "PLAIN"))

    before = guarded.proxy.accepted
    # Slow enough to last for several sessions.
    restoring(daemon, short_path / "store", target, "-sessions", BIG, rate_limit="4MiB/s").require(0)

    assert guarded.proxy.accepted >= before + 5
    same_records(guarded.kafka, BIG, BIG + "-sessions")


async def test_who_may_describe_nothing_keeps_running_and_is_told_that_the_topic_may_be_hidden(
    guarded: Guarded, backup: Backup
) -> None:
    daemon = coming(backup.daemon(MANY), guarded.cluster(Way("LOGIN", "SCRAM-SHA-256"), user=STRANGER))
    daemon.start()

    await reaches(lambda: f"topic {MANY}" in problems(daemon), "the problem")

    assert "no such topic (or hides it)" in problems(daemon)[f"topic {MANY}"]
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@dataclass(frozen=True, slots=True)
class Refused:
    way: Way
    says: str
    advises: str
    exit_code: int = 4


REFUSED: dict[str, tuple[Refused, Callable[[Guarded], Section]]] = {
    "wrong password, PLAIN": (
        Refused(Way("SECURE", "PLAIN"), "authentication refused", "check security.sasl"),
        lambda it: it.cluster(Way("SECURE", "PLAIN"), password=WRONG),
    ),
    "wrong password, SCRAM": (
        Refused(Way("LOGIN", "SCRAM-SHA-256"), "authentication refused", "check security.sasl"),
        lambda it: it.cluster(Way("LOGIN", "SCRAM-SHA-256"), password=WRONG),
    ),
    "unknown authority": (
        Refused(Way("TLS"), "certificate is not trusted", "set security.ca_file"),
        lambda it: it.cluster(Way("TLS"), ca_file=str(it.stranger.certificate)),
    ),
    "expired": (
        Refused(Way("EXPIRED"), "certificate has expired", "must renew it"),
        lambda it: it.cluster(Way("EXPIRED")),
    ),
    "another host": (
        Refused(Way("ELSEWHERE"), "not valid for '127.0.0.1'", "advertised.listeners"),
        lambda it: it.cluster(Way("ELSEWHERE")),
    ),
    "no certificate of ours": (
        Refused(Way("MUTUAL"), "CERTIFICATE_REQUIRED", "security.cert_file"),
        lambda it: it.cluster(Way("MUTUAL"), cert_file=None, key_file=None),
    ),
    "a file that is not there": (
        Refused(Way("TLS"), "ca_file /nowhere/ca.pem: No such file", "must be PEM", exit_code=2),
        lambda it: it.cluster(Way("TLS"), ca_file="/nowhere/ca.pem"),
    ),
}


TARGETS_REFUSE = ("wrong password, PLAIN", "another host")


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in TARGETS_REFUSE])
async def test_whoever_is_refused_reads_one_message_with_what_where_and_what_to_do(
    guarded: Guarded, backup: Backup, short_path: Path, case: str
) -> None:
    refused, cluster = REFUSED[case]
    daemon = coming(backup.daemon(MANY), cluster(guarded))

    ended = daemon.cli("run", "--config", str(daemon.config))

    _one_message(guarded, refused, ended)
    tells_no_secret(short_path)


async def test_a_target_that_refuses_a_restore_says_the_same(
    guarded: Guarded, backup: Backup, short_path: Path
) -> None:
    daemon = coming(backup.daemon(MANY), guarded.cluster(Way("TLS")))
    once(daemon).require(0)

    for case in TARGETS_REFUSE:
        refused, cluster = REFUSED[case]
        _one_message(guarded, refused, restoring(daemon, short_path / "store", cluster(guarded), "-refused", MANY))
    tells_no_secret(short_path)


def _one_message(guarded: Guarded, refused: Refused, ended: Finished) -> None:
    said = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.exit_code == refused.exit_code, ended.stderr
    assert len(said) == 1, ended.stderr
    text = " ".join(ended.stderr.split())
    assert refused.says in text
    assert refused.advises in text
    if refused.exit_code == 4:
        assert guarded.listeners[refused.way.listener].bootstrap in text
    assert "Traceback" not in ended.stderr + ended.stdout
