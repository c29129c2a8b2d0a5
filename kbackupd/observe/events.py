"""Every event the daemon logs: `noun.past_verb`. Dashboards and alerts on logs match these; none is spelt elsewhere.

INFO once per segment, checkpoint or change of a partition; DEBUG per request or batch; nothing per record. ERROR means
that somebody must act.
"""

from __future__ import annotations

from typing import Final

DAEMON_STARTED: Final = "daemon.started"
DAEMON_STOPPING: Final = "daemon.stop_requested"
DAEMON_STOPPED: Final = "daemon.stopped"
DAEMON_FAILED: Final = "daemon.failed"
MANAGER_MISSED: Final = "manager.not_reached"

CONFIGURATION_RELOADED: Final = "configuration.reloaded"
CONFIGURATION_REFUSED: Final = "configuration.refused"

CLUSTER_AWAITED: Final = "cluster.awaited"
ARCHIVE_CREATED: Final = "archive.created"
ARCHIVE_OPENED: Final = "archive.opened"
OBJECT_DAMAGED: Final = "object.found_damaged"
POSITIONS_RECOVERED: Final = "positions.recovered"
WRITER_CLAIMED: Final = "writer.claimed"
WRITER_FENCED: Final = "writer.fenced"

TOPIC_DISCOVERED: Final = "topic.discovered"
TOPIC_RECREATED: Final = "topic.recreated"
TOPIC_DELETED: Final = "topic.deleted"
TOPIC_EXCLUDED: Final = "topic.excluded"
TOPICS_PAUSED: Final = "topics.paused"
TOPICS_RESUMED: Final = "topics.resumed"

PARTITION_DISCOVERED: Final = "partition.discovered"
PARTITION_RETRIED: Final = "partition.retried"
PARTITION_RECOVERED: Final = "partition.recovered"
PARTITION_QUARANTINED: Final = "partition.quarantined"
GAP_RECORDED: Final = "gap.recorded"
LOG_ENDS_UNKNOWN: Final = "log.ends_unknown"
LOG_TRUNCATED: Final = "log.truncated"
BATCH_CORRUPTED: Final = "batch.found_corrupt"

FETCH_FAILED: Final = "fetch.failed"
FETCH_THROTTLED: Final = "fetch.throttled"
METADATA_FAILED: Final = "metadata.failed"
BROKER_CONNECTED: Final = "broker.connected"

SEGMENT_CLOSED: Final = "segment.closed"
SEGMENT_SEALED: Final = "segment.sealed"
SEGMENT_STORED: Final = "segment.stored"
UPLOAD_RETRIED: Final = "upload.retried"
CHECKPOINT_STORED: Final = "checkpoint.stored"
CHECKPOINT_FAILED: Final = "checkpoint.failed"
ENDS_NOTED: Final = "ends.noted"
CAPTURE_PROGRESSED: Final = "capture.progressed"
SNAPSHOT_STORED: Final = "snapshot.stored"
SNAPSHOT_FAILED: Final = "snapshot.failed"
SNAPSHOT_HIDDEN: Final = "snapshot.found_hidden"
GROUP_COMMITTED: Final = "group.committed"
GROUP_COMMIT_FAILED: Final = "group.commit_failed"
GROUP_FOUND_AHEAD: Final = "group.found_ahead"
ROLLUPS_MADE: Final = "rollups.made"
ROLLUPS_FAILED: Final = "rollups.failed"
FLUSH_FINISHED: Final = "flush.finished"
STORE_RETRIED: Final = "store.retried"

SERVER_STARTED: Final = "server.started"
SERVER_STOPPED: Final = "server.stopped"
SERVER_LEFT_OUT: Final = "server.left_out"
REQUEST_FAILED: Final = "request.failed"
LIBRARY_LOGGED: Final = "library.logged"
LINES_DROPPED: Final = "lines.dropped"
