"""Every event the daemon logs: `noun.past_verb`. Dashboards and alerts on logs match these; none is spelt elsewhere.

INFO once per segment, checkpoint or change of a partition; DEBUG per request or batch; nothing per record. ERROR means
that somebody must act.
"""

from __future__ import annotations

from typing import Final

DAEMON_STARTED: Final = "daemon.started"
DAEMON_READY: Final = "daemon.became_ready"
DAEMON_STOPPING: Final = "daemon.stop_requested"
DAEMON_STOPPED: Final = "daemon.stopped"
DAEMON_FAILED: Final = "daemon.failed"
CONFIGURATION_LOADED: Final = "configuration.loaded"

ARCHIVE_CREATED: Final = "archive.created"
ARCHIVE_OPENED: Final = "archive.opened"
POSITIONS_RECOVERED: Final = "positions.recovered"
WRITER_CLAIMED: Final = "writer.claimed"
WRITER_FENCED: Final = "writer.fenced"

TOPIC_DISCOVERED: Final = "topic.discovered"
TOPIC_RECREATED: Final = "topic.recreated"
TOPIC_DELETED: Final = "topic.deleted"
TOPIC_MISSED: Final = "topic.missed"
TOPIC_EXCLUDED: Final = "topic.excluded"
TOPICS_PAUSED: Final = "topics.paused"
TOPICS_RESUMED: Final = "topics.resumed"

PARTITION_DISCOVERED: Final = "partition.discovered"
PARTITION_CAUGHT_UP: Final = "partition.caught_up"
PARTITION_RETRIED: Final = "partition.retried"
PARTITION_RECOVERED: Final = "partition.recovered"
PARTITION_QUARANTINED: Final = "partition.quarantined"
PARTITION_CLOSED: Final = "partition.closed"
GAP_RECORDED: Final = "gap.recorded"
LOG_TRUNCATED: Final = "log.truncated"
BATCH_CORRUPTED: Final = "batch.found_corrupt"

FETCH_FAILED: Final = "fetch.failed"
FETCH_THROTTLED: Final = "fetch.throttled"
METADATA_FAILED: Final = "metadata.failed"
BROKER_LOST: Final = "broker.lost"
BROKER_CONNECTED: Final = "broker.connected"
MEMORY_EXHAUSTED: Final = "memory.exhausted"
MEMORY_RELEASED: Final = "memory.released"

SEGMENT_SEALED: Final = "segment.sealed"
SEGMENT_STORED: Final = "segment.stored"
UPLOAD_RETRIED: Final = "upload.retried"
UPLOAD_FAILED: Final = "upload.failed"
CHECKPOINT_STORED: Final = "checkpoint.stored"
CHECKPOINT_FAILED: Final = "checkpoint.failed"
FLUSH_REQUESTED: Final = "flush.requested"
FLUSH_FINISHED: Final = "flush.finished"
GROUP_COMMITTED: Final = "group.committed"
GROUP_COMMIT_FAILED: Final = "group.commit_failed"
STORE_RETRIED: Final = "store.retried"

SERVER_STARTED: Final = "server.started"
SERVER_STOPPED: Final = "server.stopped"
REQUEST_FAILED: Final = "request.failed"
LIBRARY_LOGGED: Final = "library.logged"
LINES_DROPPED: Final = "lines.dropped"
TASK_FAILED: Final = "task.failed"
