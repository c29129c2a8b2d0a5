"""Uploads in bad weather: one that stalls while later ones land, and a clock that steps back between two lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kbackupd.format.keys import SegmentKey, parse_segment_key
from kbackupd.testbed.proxy import Reset
from kbackupd.testbed.s3_proxy import Answer, S3Proxy, Stall
from kbackupd.testbed.topics import create_topic
from kbackupd.validate.report import Code
from tests.integration.capture.backup import Backup, codes, flush, follows, problems
from tests.integration.conditions import reaches

Names = Callable[[], str]


def stored(backup: Backup, epoch: int) -> list[SegmentKey]:
    """The segments of a writer epoch by sequence."""
    found = [parse_segment_key(key) for key in backup.objects(f"segments/main/{epoch:010}/")]
    return sorted((key for key in found if key is not None), key=lambda key: key.seq)


async def test_killed_with_one_upload_stalled_and_later_ones_landed_it_declares_the_sequence_abandoned_and_is_exact(
    backup: Backup, proxy: S3Proxy, unique_topic: Names
) -> None:
    hot, cold = (create_topic(backup.kafka.bootstrap, unique_topic()) for _ in range(2))
    daemon = backup.daemon(hot, cold, endpoint=proxy.endpoint)
    daemon.start()
    await flush(daemon)
    backup.fill(cold)
    await flush(daemon)
    before = len(stored(backup, 1))

    # The stalled one holds records of both topics, those that land behind it only of one.
    rule = proxy.strike(Stall(), method="PUT", key_part="segments/main/", times=1)
    backup.fill(cold, batches=1)
    backup.fill(hot, batches=1)
    await reaches(lambda: bool(rule.struck), "an upload stalled")
    proxy.strike(Stall(), method="PUT", key_part=rule.struck[0])  # also when it is given up and begun again

    def landed(count: int) -> bool:
        return len(stored(backup, 1)) >= before + count

    for number in range(1, 3):
        backup.fill(hot, batches=1)
        await reaches(partial(landed, number), "later segments landed")
    daemon.kill()
    (stalled,) = rule.struck
    missing = sorted(set(range(stored(backup, 1)[-1].seq)) - {key.seq for key in stored(backup, 1)})
    assert len(missing) == 1
    assert f"{missing[0]:016}" in stalled

    daemon.start()
    await follows(daemon, hot, 1)
    await flush(daemon)
    async with backup.archive() as archive:
        (declared,) = next(s.footer.earlier for s in archive.catalog.segments if s.place.writer_epoch == 2)
    assert declared.writer_epoch == 1
    assert not any(first <= missing[0] < end for first, end in declared.durable)
    assert sum(end - first for first, end in declared.durable) == len(stored(backup, 1))
    await backup.verbatim({hot: 1, cold: 1})

    # What was on its way all that time arrives at last: it may, and changes nothing.
    proxy.clear()
    await reaches(lambda: missing[0] in [key.seq for key in stored(backup, 1)], "the late segment")
    backup.fill(cold, batches=1)
    await backup.drained(daemon, {hot: 1, cold: 1})
    assert Code.SEQUENCE_ABANDONED in codes(await backup.validated())


async def test_a_store_that_refuses_uploads_is_a_visible_problem_within_seconds_and_all_is_stored_when_it_takes_them(
    backup: Backup, proxy: S3Proxy, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    daemon = backup.daemon(topic, endpoint=proxy.endpoint)
    daemon.start()
    await flush(daemon)

    def told(said: str) -> bool:
        subjects = {"store put", "uploads"}
        return any(said in message for subject, message in problems(daemon).items() if subject in subjects)

    for fault, said in (
        (Answer(status=503), "SlowDown"),
        (Answer(status=403, code="AccessDenied"), "AccessDenied"),
        (Reset(), ""),
    ):
        rule = proxy.strike(fault, method="PUT", key_part="segments/main/")
        backup.fill(topic, batches=1)
        await reaches(partial(told, said), "told", seconds=30)
        assert daemon.get("/healthz")[0] == 503
        rule.lift()
        await reaches(lambda: problems(daemon) == {}, "well again")
    await backup.drained(daemon, {topic: 1})


async def test_a_clock_stepped_back_an_hour_between_two_lives_disturbs_neither_order_nor_contents(
    backup: Backup, unique_topic: Names
) -> None:
    topic = create_topic(backup.kafka.bootstrap, unique_topic())
    backup.fill(topic)
    right = backup.daemon(topic)
    right.start()
    await flush(right)
    backup.fill(topic)
    right.kill()

    wrong = backup.daemon(topic, odd=("--clock-wrong-seconds", "-3600"))
    wrong.start()
    backup.fill(topic)
    await flush(wrong)
    backup.fill(topic)
    assert wrong.stop() == 0
    again = backup.daemon(topic)
    again.start()
    backup.fill(topic)
    await flush(again)
    assert again.stop() == 0

    segments = [key for epoch in (1, 2, 3) for key in stored(backup, epoch)]
    assert [key.seq for key in stored(backup, 2)] == list(range(len(stored(backup, 2))))
    sealed = [key.sealed_ms for key in segments]
    assert sealed == sorted(sealed)
    async with backup.archive() as archive:
        claims = {key.writer_epoch: claim.claimed_ms for key, claim in archive.catalog.claims.items()}
        names = [segment.ref.key for segment in archive.catalog.segments]
        assert names == sorted(names)
    assert 3_500_000 < claims[1] - claims[2] < 3_600_000  # it really was wrong
    await backup.verbatim({topic: 1})
