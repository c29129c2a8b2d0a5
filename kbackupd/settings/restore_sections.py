"""The keys of `restore.yaml`, those of later releases included: they are refused by name, never ignored."""

from __future__ import annotations

from typing import Annotated

from kbackupd.model.settings import RetentionAfter
from kbackupd.settings.fields import (
    Brokers,
    Flag,
    Kind,
    Later,
    Listed,
    Location,
    Name,
    Rate,
    SomeTopicGlobs,
    TopicGlobs,
    TopicName,
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
    source: TopicName
    """Topic in the archive."""
    target: TopicName
    """Topic in the target cluster."""


class RestoreOptionsSection(Section):
    topics: RestoreTopicsSection = RestoreTopicsSection()
    """Which of the archive's user topics, by globs over their names there."""
    topic_mapping: Annotated[tuple[MappingSection, ...], Listed, Kind("list of source and target")] = ()
    """Restores topics under other names. Without `topics.include`, only these are restored."""
    retention_after: Annotated[RetentionAfter, one_of(*RetentionAfter), Kind("auto, recorded or hold")] = written(
        "auto"
    )
    """Recorded configuration is put back last: `auto` if it would delete nothing, `recorded` always, `hold` never."""
    rate_limit: Rate | None = None
    """Bytes per second produced into the target; default: unlimited."""
    verify: Flag = written("true")
    """Read back what was restored and compare."""
    time_window_start: Later = None
    time_window_end: Later = None
    as_of: Later = None
    visibility: Later = None
    offsets: Later = None
    append: Later = None
    consumer_groups: Later = None
    acls: Later = None


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
