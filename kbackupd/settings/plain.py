"""From checked sections to the plain values of `model.settings`, which everybody else uses."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from kbackupd.model.location import parse_location, with_aws_environment
from kbackupd.model.positions import TopicId
from kbackupd.model.scope import HeaderPattern, OffsetBounds, RecordPatterns, RestoreScope, TimeWindow
from kbackupd.model.settings import (
    BackupSettings,
    ControlSettings,
    DaemonSettings,
    FilesystemSettings,
    ObservabilitySettings,
    RestoredGroups,
    RestoreOptions,
    RestoreSettings,
    RestoreSource,
    RestoreTarget,
    S3Settings,
    SaslSettings,
    Secret,
    SecuritySettings,
    SourceSettings,
    StorageSettings,
    TierSettings,
    TopicMapping,
    TopicSelection,
)
from kbackupd.settings.choice_contradictions import topic_selection
from kbackupd.settings.daemon_sections import DaemonFile, StorageSection
from kbackupd.settings.fields import split_host_port
from kbackupd.settings.restore_sections import RestoreFile, RestoreOptionsSection
from kbackupd.settings.sections import S3Access, SecuritySection


def daemon_settings(file: DaemonFile) -> DaemonSettings:
    backup = file.backup
    host, port = split_host_port(file.observability.listen)
    return DaemonSettings(
        backup_id=file.backup_id,
        writer=file.writer,
        source=SourceSettings(
            bootstrap_servers=file.source.bootstrap_servers,
            topics=TopicSelection(include=file.source.topics.include, exclude=file.source.topics.exclude),
            internal_topics=file.source.internal_topics,
            consumer_group=file.source.consumer_group,
            security=_security(file.source.security),
            rate_limit_bytes_per_second=file.source.rate_limit,
        ),
        storage=_storage(file.storage),
        backup=BackupSettings(
            flush_interval_seconds=backup.flush_interval,
            segment_max_bytes=backup.segment_max_bytes,
            checkpoint_interval_seconds=backup.checkpoint_interval,
            compression_codec=backup.compression.codec,
            compression_level=backup.compression.level,
            memory_limit_bytes=backup.memory_limit,
            start=backup.start,
            discovery_interval_seconds=backup.discovery_interval,
            snapshot_interval_seconds=backup.snapshot_interval,
            rollup_interval_seconds=backup.rollup_interval,
            shutdown_timeout_seconds=backup.shutdown_timeout,
        ),
        tiers=tuple(
            TierSettings(name=tier.name, topics=tier.topics, rpo_seconds=tier.rpo, rto_seconds=tier.rto)
            for tier in file.tiers
        ),
        observability=ObservabilitySettings(
            host=host,
            port=port,
            per_partition_metrics=file.observability.per_partition_metrics,
            log_format=file.observability.log_format,
            log_level=file.observability.log_level,
        ),
        control=ControlSettings(socket=file.control.socket),
    )


def restore_settings(file: RestoreFile, environ: Mapping[str, str]) -> RestoreSettings:
    source, target, options = file.restore.source, file.restore.target, file.restore.options
    return RestoreSettings(
        source=RestoreSource(
            path=source.path,
            backup_id=source.backup_id,
            storage=_storage_at(source.path, source.s3 or S3Access(), environ),
        ),
        target=RestoreTarget(bootstrap_servers=target.bootstrap_servers, security=_security(target.security)),
        options=RestoreOptions(
            topics=topic_selection(options),
            topic_mapping=tuple(TopicMapping(source=m.source, target=m.target) for m in options.topic_mapping),
            scope=_scope(options),
            retention_after=options.retention_after,
            offsets=options.offsets,
            append=options.append,
            acls=options.acls,
            rate_limit_bytes_per_second=options.rate_limit,
            verify=options.verify,
            provenance_headers=options.provenance_headers,
            consumer_groups=RestoredGroups(
                restore=options.consumer_groups.restore, include=options.consumer_groups.include
            ),
        ),
    )


def _scope(options: RestoreOptionsSection) -> RestoreScope:
    filters = options.filters
    return RestoreScope(
        as_of_ms=options.as_of,
        window=TimeWindow(start_ms=options.time_window_start, end_ms=options.time_window_end),
        records_of=options.visibility,
        patterns=RecordPatterns(
            key=filters.key,
            value=filters.value,
            headers=tuple(HeaderPattern(name=header.name, value=header.value) for header in filters.headers),
        ),
        offsets={
            (one.topic, one.partition): OffsetBounds(first_offset=one.first_offset, next_offset=one.next_offset)
            for one in options.offset_ranges
        },
        partitions={one.topic: frozenset(one.partitions) for one in options.partitions},
        incarnations={one.topic: TopicId(one.topic_id) for one in options.incarnations},
        branches={(one.topic, one.partition): one.branch for one in options.branches},
        target_partitions={one.topic: one.target_partitions for one in options.partition_mapping},
    )


def _storage_at(path: str, access: S3Access, environ: Mapping[str, str]) -> StorageSettings:
    """What is written wins over the standard AWS variables."""
    storage = parse_location(path, {})
    if isinstance(storage.backend, FilesystemSettings):
        return storage
    written = _s3(access, storage.backend.bucket, storage.backend.prefix)
    return StorageSettings(backend=with_aws_environment(written, environ))


def _storage(section: StorageSection) -> StorageSettings:
    if section.type == "filesystem":
        assert section.filesystem is not None, "contradictions refuse a type without its section"
        return StorageSettings(backend=FilesystemSettings(path=section.filesystem.path))
    s3 = section.s3
    assert s3 is not None, "contradictions refuse a type without its section"
    return StorageSettings(backend=_s3(s3, s3.bucket, s3.prefix))


def _s3(access: S3Access, bucket: str, prefix: str) -> S3Settings:
    return S3Settings(
        bucket=bucket,
        prefix=prefix,
        region=access.region,
        endpoint=access.endpoint,
        force_path_style=access.force_path_style,
        profile=access.profile,
        access_key_id=_secret(access.access_key_id),
        secret_access_key=_secret(access.secret_access_key),
        session_token=_secret(access.session_token),
    )


def _security(section: SecuritySection) -> SecuritySettings:
    sasl = section.sasl
    return SecuritySettings(
        protocol=section.protocol,
        sasl=None
        if sasl is None
        else SaslSettings(
            mechanism=sasl.mechanism, username=sasl.username, password=Secret(sasl.password.get_secret_value())
        ),
        ca_file=section.ca_file,
        cert_file=section.cert_file,
        key_file=section.key_file,
    )


def _secret(value: SecretStr | None) -> Secret | None:
    return None if value is None else Secret(value.get_secret_value())
