"""Do roll-ups say what the segments say? What they contradict is a finding; what is in none of them costs time only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from kbackupd.archive.history import SegmentPlace
from kbackupd.archive.rollup_check import check_bytes, heads_differ, rows_differ
from kbackupd.archive.rollup_source import UsableRollup
from kbackupd.archive.segments import CatalogSegment
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError
from kbackupd.store.protocol import ObjectStore
from kbackupd.validate.listing import ROLL_UP_AGAIN
from kbackupd.validate.report import Code, Finding, Severity
from kbackupd.validate.survey import Survey

_WORTH_SAYING = 16
"""So many segments between rolled up ones are in no roll-up only if one was deleted, or is damaged."""


def rollup_findings(found: Survey) -> Iterator[Finding]:
    """What roll-ups say of their segments against those that are there; sources and stretches that are missing."""
    segments = {segment.place: segment for segment in found.catalog.segments}
    for rollup in found.rollups:
        for message in heads_differ(rollup, _covered(rollup, segments)):
            yield _contradiction(rollup, message)
    yield from _sources(found)
    yield from _uncovered(found, segments)


def _covered(rollup: UsableRollup, segments: dict[SegmentPlace, CatalogSegment]) -> list[CatalogSegment]:
    return [segment for place in rollup.places() if (segment := segments.get(place)) is not None]


def _contradiction(rollup: UsableRollup, message: str) -> Finding:
    return Finding(
        severity=Severity.ERROR,
        code=Code.ROLLUP_CONTRADICTED,
        message=message,
        action=ROLL_UP_AGAIN,
        object=rollup.opened.ref.key,
    )


def _sources(found: Survey) -> Iterator[Finding]:
    """A roll-up names those it was made of, and they may go; but one of that name must be the one it means."""
    held = {rollup.opened.ref.key: rollup.opened.ref for rollup in found.rollups}
    there = {info.key for info in found.catalog.objects}
    for rollup in found.rollups:
        for source in rollup.opened.footer.head.sources:
            if source.key not in there:
                yield Finding(
                    severity=Severity.INFORMATION,
                    code=Code.ROLLUP_MISSING,
                    message=f"deleted; {rollup.opened.ref.key} was made of it and says the same",
                    object=source.key,
                )
            elif source.key in held and held[source.key] != source:
                yield Finding(
                    severity=Severity.ERROR,
                    code=Code.CHAIN_BROKEN,
                    message=f"is not the roll-up that {rollup.opened.ref.key} was made of",
                    action=f"the object was replaced by another one; {ROLL_UP_AGAIN}",
                    object=source.key,
                )


def _uncovered(found: Survey, segments: dict[SegmentPlace, CatalogSegment]) -> Iterator[Finding]:
    covered = {place for rollup in found.rollups for place in rollup.places()}
    newest: dict[str, SegmentPlace] = {}
    for place in covered:
        newest[place.writer] = max(place, newest.get(place.writer, place))
    left: dict[str, list[SegmentPlace]] = defaultdict(list)
    for place in segments:
        if place.writer in newest and place < newest[place.writer] and place not in covered:
            left[place.writer].append(place)
    for places in left.values():
        if len(places) >= _WORTH_SAYING:
            yield Finding(
                severity=Severity.INFORMATION,
                code=Code.ROLLUP_MISSING,
                message=f"{len(places)} segments before the newest that is rolled up are in no roll-up",
                action="run kbackupd rollup; until then an archive takes longer to open",
                object=segments[min(places)].ref.key,
            )


async def rollup_content_findings(store: ObjectStore, found: Survey) -> list[Finding]:
    """Every byte of every roll-up, and every row against the footers, where all of these can be read.

    Raises:
        KbackupError: the store could not be read for certain.
    """
    segments = {segment.place: segment for segment in found.catalog.segments}
    findings: list[Finding] = []
    for rollup in found.rollups:
        covered = _covered(rollup, segments)
        try:
            await check_bytes(store, rollup.opened)
            if len(covered) == rollup.opened.footer.segments and not any(heads_differ(rollup, covered)):
                message = await rows_differ(store, rollup, covered)
                if message is not None:
                    findings.append(_contradiction(rollup, message))
        except ObjectMissingError:
            continue  # gone since it was listed: no more than a deleted one
        except CorruptObjectError as error:
            findings.append(
                Finding(
                    severity=Severity.ERROR,
                    code=Code.OBJECT_DAMAGED,
                    message=error.reason,
                    action=ROLL_UP_AGAIN,
                    object=rollup.opened.ref.key,
                )
            )
    return findings
