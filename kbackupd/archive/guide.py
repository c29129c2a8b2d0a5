"""The plain text that every archive carries: how to get the data back with nothing but the bucket (R4).

Its digest is in `backup.json`. An archive keeps the text it was created with.
"""

RESTORE_GUIDE = """\
RESTORE: this directory is a kbackupd archive of an Apache Kafka cluster.

What you need
  - this directory (in S3 or copied to a disk), with all its objects
  - Python 3.11 or newer
  - an empty Kafka cluster, version 3.1 or newer

Get the data back
  1. Install kbackupd, of the version that writers/*/*.json name as "software" or newer:
     pip install . in a checkout of its source
  2. See what is here (PATH is what stands before the backup id, such as s3://bucket/prefix or file:///dir):
       kbackupd list --path PATH
       kbackupd describe --path PATH --backup-id ID
  3. Prove that it is whole:
       kbackupd validate --path PATH --backup-id ID --deep
  4. Write restore.yaml:
       restore:
         source: {path: PATH, backup_id: ID}
         target: {bootstrap_servers: [new-cluster:9092]}
  5. kbackupd restore --config restore.yaml --dry-run
     kbackupd restore --config restore.yaml
  6. Where consumer groups stood, and how topics were configured, at an instant (ISO 8601):
       kbackupd groups --path PATH --backup-id ID --at TIME
       kbackupd describe --path PATH --backup-id ID --at TIME

Without kbackupd
  Every segments/**/*.kbs is: 8 bytes of magic, runs of Kafka record batches, a footer, an envelope, a trailer of
  56 bytes.
  Trailer, big-endian: u32 length of the footer, u32 length of the envelope, u64 offset of the footer,
  32 bytes SHA-256 over footer, envelope and those 16 bytes, 8 bytes of magic.
  The footer is one zstd frame of JSON. Its table "runs" lists topic (index into "topics"), partition, first_offset,
  next_offset, position, stored_length and codec (0 plain, 1 one zstd frame). A run, decompressed, is a piece of a
  Kafka log file, which Kafka's own tool prints:
       kafka-dump-log.sh --files 00000000000000000000.log --print-data-log
  The same offset may be stored more than once; take each offset once.

Nothing here is ever changed after it was written. Do not delete or rename objects by hand.
"""
