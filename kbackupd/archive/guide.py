"""The plain text that every archive carries: how to get the data back with nothing but the bucket (R4).

Its digest is in `backup.json`. An archive keeps the text it was created with, so what it says must stay true: of the
format, and of every later version of the command line.
"""

RESTORE_GUIDE = """\
RESTORE: this directory is a kbackupd archive of an Apache Kafka cluster.
It is enough by itself. Nothing here is ever changed after it was written: do not delete or rename objects by hand.

PATH is what stands before the backup id (s3://bucket/prefix or file:///dir), ID the backup id, the name of this
directory. Times are ISO 8601, such as 2026-11-26T14:00:00Z. Credentials of the bucket: s3:GetObject and s3:ListBucket
suffice to read. An S3 server that is not AWS: export AWS_ENDPOINT_URL.


1. WITH KBACKUPD

You need Python 3.11 or newer and an empty Kafka cluster, version 3.1 or newer.

  a. Install kbackupd, of the version that writers/*/*.json name as "software" or newer:
       pip install .                                  in a checkout of its source
  b. See what is here, and prove that it is whole (exit code 0; --deep reads every byte, without it only indexes):
       kbackupd list     --path PATH
       kbackupd describe --path PATH --backup-id ID
       kbackupd validate --path PATH --backup-id ID --deep
  c. Write restore.yaml. This brings back every topic, and consumer groups to where they stood:
       restore:
         source: {path: PATH, backup_id: ID}
         target: {bootstrap_servers: [new-cluster:9092]}
         options: {consumer_groups: {restore: true, include: ["*"]}}
     A restore keeps notes in the bucket, to go on when it is killed. Who may only read there has it use a directory of
     his own instead: --plans DIR, the same one when it is run again.
  d. Look at the plan, then do it. Nothing but empty or absent topics is written to; killed, run it again: it goes on.
       kbackupd restore --config restore.yaml --dry-run
       kbackupd restore --config restore.yaml
     Exit code 0: complete, read back and compared. 6: something is missing, the report says what and why. 3: the
     archive is damaged, the rest was restored. 5: refused before any write, with the remedy. 4: not reachable, or
     denied. 2: the file is wrong.
  e. What else was known of the cluster at an instant (configurations, ACLs and quotas are in the JSON):
       kbackupd groups   --path PATH --backup-id ID --at TIME
       kbackupd describe --path PATH --backup-id ID --at TIME --format json


2. WITHOUT KBACKUPD

You need a copy of this directory, and Python 3 with zstandard (pip install zstandard) or the command zstd.

  a. Copy it:
       aws s3 sync PATH/ID ./archive                  or any other S3 client
  b. Cut the program below out of this text:
       sed -n '/^# extract.py/,/^# end$/p' archive/RESTORE.md > extract.py
  c. See which topics there are: topic id, name, partition, offsets. One that was deleted and made again has two ids.
       python3 extract.py archive
  d. Write a partition as a Kafka log file. Give it the name that Kafka would: its first offset, in 20 digits.
       python3 extract.py archive TOPIC_ID PARTITION 00000000000000000000.log
  e. Kafka's own tool checks it and prints offsets, timestamps, keys, values and headers:
       kafka-dump-log.sh --files 00000000000000000000.log --print-data-log
     It has everything that the broker had, of aborted transactions too: a record batch of one is followed, in its
     partition, by a control batch of the same producerId that says endTxnMarker: ABORT.

How an object segments/WRITER/EPOCH/SEQUENCE-TIME.kbs is made up: 8 bytes of magic, runs of Kafka record batches just
as the broker sent them, a footer, an envelope, a trailer of 56 bytes. Trailer, big-endian: u32 length of the footer,
u32 length of the envelope, u64 position of the footer, 32 bytes SHA-256 over footer, envelope and those 16 bytes, 8
bytes of magic. The footer is one zstd frame of JSON; its table "runs" (columns) says which bytes are which offsets of
which partition, "codec" 1 that they are one zstd frame, "topics" which topics there are. By hand, with F an object:
  n() { echo $((0x$(tail -c $1 F | head -c $2 | od -An -v -tx1 | tr -d ' \\n'))); }
  tail -c +$(($(n 48 8) + 1)) F | head -c $(n 56 4) | zstd -dc > footer.json

The program takes every batch once, however often it was captured (of two captures the one with more records, for a
compaction takes some out), and of a log that an election cut back the history that went on (a batch that the cut runs
through is written whole). It takes what a writer that was killed left behind for as good as the rest: docs/format.md
in kbackupd's source has the rules for that, and everything else. In memory it keeps what it knows of each run, and of
each batch of the partition.

# extract.py ARCHIVE [TOPIC_ID PARTITION OUTPUT]
import glob, hashlib, json, os, struct, subprocess, sys

try:
    from zstandard import decompress as unpack
except ImportError:
    unpack = lambda data: subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout

runs, cuts = {}, {}  # by topic id, name and partition; the order of keys is the order in which they were written
for path in sorted(glob.glob(os.path.join(sys.argv[1], "segments/*/*/*.kbs"))):
    with open(path, "rb") as file:
        file.seek(-56, os.SEEK_END)
        trailer = file.read()
        footer_length, envelope_length, position = struct.unpack(">IIQ", trailer[:16])
        file.seek(position)
        tail = file.read(footer_length + envelope_length)
    if hashlib.sha256(tail + trailer[:16]).digest() != trailer[16:48]:
        sys.exit(path + " is damaged; move it away to go on without it")
    footer = json.loads(unpack(tail[:footer_length]))
    columns = footer["runs"]
    rows = [dict(zip(columns, row), path=path, epochs=[]) for row in zip(*columns.values())]
    for row, epoch, start in zip(*(footer["leader_epochs"][name] for name in ("run", "epoch", "start_offset"))):
        rows[row]["epochs"].append((epoch, start))
    for run in rows:
        if not run["flags"] & 16:  # these bytes were damaged in the broker already
            runs.setdefault((*footer["topics"][run["topic"]], run["partition"]), []).append(run)
    for event in footer["events"]:
        if event["type"] == "truncated":
            cuts.setdefault((*footer["topics"][event["topic"]], event["partition"]), {})[event["branch"]] = event
if len(sys.argv) == 2:
    for key in sorted(runs):
        first, end = min(run["first_offset"] for run in runs[key]), max(run["next_offset"] for run in runs[key])
        print(*key, "offsets", first, "to", end - 1)
    sys.exit()
key = next(key for key in runs if key[0] == sys.argv[2] and key[2] == int(sys.argv[3]))
branches, branch, end = {}, max(cuts.get(key, {0: 0})), 1 << 63  # where each branch of the newest history ends
while branch not in branches:
    branches[branch] = end
    if event := cuts.get(key, {}).get(branch):
        end, branch = min(end, event["offset"]), event["parent"]
read = lambda run: unpack(stored(run)) if run["codec"] == 1 else stored(run)
def stored(run):
    with open(run["path"], "rb") as file:
        file.seek(run["position"])
        return file.read(run["stored_length"])
starts = {}  # of each branch: where each leader epoch begins
for run in runs[key]:
    of_branch = starts.setdefault(run["branch"], {})
    for epoch, start in run["epochs"]:
        of_branch[epoch] = min(start, of_branch.get(epoch, start))
batches = {}  # base offset: where the capture of it is that has the most records, of equal ones the first
for number, run in enumerate(runs[key]):
    if run["branch"] not in branches:
        continue
    last = max((epoch for epoch, _ in run["epochs"]), default=-1)
    later = [start for epoch, start in starts[run["branch"]].items() if epoch > last > -1]
    end = min([branches[run["branch"]], *later])  # beyond it lies the tail of a log that was cut
    data, at = read(run), 0
    while at < len(data):
        base, length = struct.unpack_from(">qi", data, at)
        (count,) = struct.unpack_from(">i", data, at + 57) if data[at + 16] == 2 else (0,)
        found = (-count, run["captured_ms"], number, at, at + 12 + length)
        if base < end and found < batches.get(base, (1,)):
            batches[base] = found
        at += 12 + length
with open(sys.argv[4], "xb") as output:
    number = -1
    for base in sorted(batches):
        if batches[base][2] != number:
            number, data = batches[base][2], read(runs[key][batches[base][2]])
        output.write(data[batches[base][3] : batches[base][4]])
# end
"""
