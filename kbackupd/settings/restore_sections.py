"""The keys of `restore.yaml`, those of later releases included: they are refused by name, never ignored."""

from __future__ import annotations

from typing import Annotated

from kbackupd.model.scope import RecordsOf
from kbackupd.model.settings import KeepOffsets, RetentionAfter
from kbackupd.settings.fields import (
    Brokers,
    Flag,
    GroupGlobs,
    Instant,
    Kind,
    Listed,
    Location,
    Name,
    Offset,
    PartitionNumbers,
    Rate,
    Regex,
    SomeTopicGlobs,
    Text,
    TopicGlob,
    TopicGlobs,
    TopicName,
    TopicTarget,
    TopicUuid,
    Whole,
    one_of,
)
from kbackupd.settings.sections import Root, S3Access, Section, SecuritySection, written


class RestoreSourceSection(Section):
    path: Location
    """Where the archive is: `s3://bucket/prefix` or `file:///directory`, without the backup id."""
    backup_id: Name
    """Name of the archive below that path."""
    s3: S3Access | None = None
    """How to reach an `s3://` path; default: the AWS chain."""


class RestoreTargetSection(Section):
    bootstrap_servers: Brokers
    """Some brokers of the cluster that receives the topics."""
    security: SecuritySection = SecuritySection()
    """TLS and SASL towards the brokers."""


class RestoreTopicsSection(Section):
    include: SomeTopicGlobs | None = None
    """Topics that are restored; default: all, or those that `topic_mapping` names. A missing name is an error."""
    exclude: TopicGlobs = ()
    """Topics that are not, even if included. Internal topics never are."""


class MappingSection(Section):
    source: TopicGlob
    """Topic in the archive, or a glob over those that are restored. The first that matches a topic counts."""
    target: TopicTarget
    """Topic in the target cluster. A `*` stands for what the one `*` of `source` matched."""


class OfTopicSection(Section):
    """An entry about one topic."""

    topic: TopicName
    """Topic in the archive."""


class OfPartitionSection(OfTopicSection):
    """An entry about one partition."""

    partition: Whole
    """Its partition."""


class OffsetRangeSection(OfPartitionSection):
    first_offset: Offset = None
    """The first source offset that is restored; default: from the beginning."""
    next_offset: Offset = None
    """The first source offset that is not any more; default: to the end."""


class PartitionsSection(OfTopicSection):
    partitions: PartitionNumbers
    """The only ones of it that are restored. The target topic has them all; the others stay empty."""


class PartitionMappingSection(OfTopicSection):
    target_partitions: Whole
    """How many the target topic has, at least as many as recorded. Records keep their partition's number."""


class IncarnationSection(OfTopicSection):
    topic_id: TopicUuid
    """Which of the topics that had this name."""


class BranchSection(OfPartitionSection):
    branch: Whole
    """Which of the histories that a truncated log has, by its number."""


class HeaderFilterSection(Section):
    name: Text
    """Name of a header the record must have."""
    value: Regex = None
    """Searched in its value; default: whatever it is, null too."""


class FiltersSection(Section):
    key: Regex = None
    """Searched in the record's key; a null key never matches."""
    value: Regex = None
    """Searched in the record's value; a null value never matches."""
    headers: Annotated[tuple[HeaderFilterSection, ...], Listed, Kind("list of header filters")] = ()
    """Headers the record must have, all of them."""


class ConsumerGroupsSection(Section):
    restore: Flag = written("false")
    """After everything is restored, let consumer groups go on where they stood (docs/offset-reset.md)."""
    include: GroupGlobs = ("*",)
    """Which groups of the archive."""


class RestoreOptionsSection(Section):
    topics: RestoreTopicsSection = RestoreTopicsSection()
    """Which of the archive's user topics, by globs over their names there."""
    topic_mapping: Annotated[tuple[MappingSection, ...], Listed, Kind("list of source and target")] = ()
    """Restores topics under other names. Without `topics.include`, only these are restored."""
    as_of: Instant = None
    """Everything as it was at that instant: topics, records, configuration and groups (docs/restore.md)."""
    time_window_start: Instant = None
    """Only records whose timestamp is this or later."""
    time_window_end: Instant = None
    """Only records whose timestamp is earlier than this."""
    offset_ranges: Annotated[tuple[OffsetRangeSection, ...], Listed, Kind("list of offset ranges")] = ()
    """Only these source offsets of the partitions listed; other partitions are restored whole."""
    partitions: Annotated[tuple[PartitionsSection, ...], Listed, Kind("list of topic and partitions")] = ()
    """Only these partitions of the topics listed; other topics are restored whole."""
    filters: FiltersSection = FiltersSection()
    """Only records that match everything given here; every batch is decoded for it. Expressions are Python's `re`,
    searched anywhere in the bytes: `^` and `$` bind them to the ends, `\\xff` is a byte."""
    visibility: Annotated[RecordsOf, one_of(*RecordsOf), Kind("committed or uncommitted")] = written("committed")
    """`uncommitted` restores records of aborted, undecided and open transactions too."""
    incarnations: Annotated[tuple[IncarnationSection, ...], Listed, Kind("list of topic and topic id")] = ()
    """Restores that incarnation of a topic that was deleted and made anew, instead of the newest."""
    branches: Annotated[tuple[BranchSection, ...], Listed, Kind("list of topic, partition and branch")] = ()
    """Restores that branch of a partition whose log was truncated, instead of the newest."""
    partition_mapping: Annotated[
        tuple[PartitionMappingSection, ...], Listed, Kind("list of topic and target partitions")
    ] = ()
    """More partitions in the target than in the archive; the additional ones stay empty."""
    provenance_headers: Flag = written("false")
    """Adds headers with source topic, partition and offset to every record, which makes it slow."""
    retention_after: Annotated[RetentionAfter, one_of(*RetentionAfter), Kind("auto, recorded or hold")] = written(
        "auto"
    )
    """Recorded configuration is put back last: `auto` if it would delete nothing, `recorded` always, `hold` never."""
    offsets: Annotated[KeepOffsets, one_of(*KeepOffsets), Kind("auto, compact or preserve")] = written("auto")
    """`compact`: records follow each other. `preserve`: each has the offset it had; committed positions stay valid.
    `auto`: only those of `_schemas` have."""
    append: Flag = written("false")
    """Restores behind the records of topics that hold some, too; such a topic keeps its own configuration."""
    rate_limit: Rate | None = None
    """Bytes per second produced into the target; default: unlimited."""
    verify: Flag = written("true")
    """Read back what was restored and compare."""
    consumer_groups: ConsumerGroupsSection = ConsumerGroupsSection()
    """Positions of consumer groups that come along."""
    acls: Flag = written("false")
    """Sets the recorded ACLs of restored topics, and of groups that come along, at the end; takes none away."""


class RestoreSection(Section):
    source: RestoreSourceSection
    """The archive."""
    target: RestoreTargetSection
    """The cluster that receives the topics."""
    options: RestoreOptionsSection = RestoreOptionsSection()
    """What is restored, and how."""


class RestoreFile(Root):
    """Configuration of `kbackupd restore`."""

    restore: RestoreSection
