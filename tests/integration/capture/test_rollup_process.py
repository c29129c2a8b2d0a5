"""The process that rolls up for a daemon: what it is told and tells, and that none is ever left behind (hazard 48)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from kbackupd.daemon.rollup_child import NICENESS
from kbackupd.daemon.rollup_messages import RollupFailed, RollupMade, RollupRequest, decode_request, encode
from kbackupd.daemon.rollup_process import RollupProcess
from kbackupd.format import keys
from kbackupd.model.settings import FilesystemSettings, S3Settings, Secret, StorageSettings
from tests.archive_builder import BACKUP_ID, ArchiveBuilder
from tests.integration.conditions import reaches, runs

SECRETIVE = StorageSettings(
    backend=S3Settings(bucket="b", prefix="p", access_key_id=Secret("AKIA0000"), secret_access_key=Secret("verysecret"))
)
LIMITS = {"segments": 4, "fan_in": 3, "unsettled": 2, "between": 2}


def running(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


def process(directory: Path, *, script: str = "", deadline_seconds: float = 120.0) -> RollupProcess:
    storage = StorageSettings(backend=FilesystemSettings(path=directory))
    if not script:
        return RollupProcess(storage, BACKUP_ID, limits=LIMITS, deadline_seconds=deadline_seconds)
    return RollupProcess(storage, BACKUP_ID, deadline_seconds=deadline_seconds, command=running(script))


def gone(pid: int) -> bool:
    """Not even a zombie is left of it."""
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("storage", [SECRETIVE, StorageSettings(backend=FilesystemSettings(path=Path("/backup")))])
def test_a_request_arrives_with_the_storage_it_was_made_for(storage: StorageSettings) -> None:
    request = decode_request(encode(RollupRequest.of(storage, "main", LIMITS)))
    assert (request.storage, request.backup_id, request.limits) == (storage, "main", LIMITS)


async def test_the_archive_is_rolled_up_and_the_answer_says_when_there_is_more_to_do(tmp_path: Path) -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()
    for _ in range(13):
        built.log(topic, 0).append([b"value"])
        life.capture(topic, 0)
        await life.flush()
    for key, data in built.store.objects.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    made = await process(tmp_path).run()
    assert isinstance(made, RollupMade), made
    assert (made.built, made.segments, made.uncovered, made.due_in) == (2, 8, 5, {"main": 1})
    found = [str(path.relative_to(tmp_path / BACKUP_ID)) for path in (tmp_path / BACKUP_ID / "rollups").rglob("*.kbr")]
    assert sum(1 for key in found if keys.parse_rollup_key(key)) == made.built + made.merged > 0
    assert made.damaged == 0


async def test_a_place_without_an_archive_is_told_with_its_remedy(tmp_path: Path) -> None:
    failed = await process(tmp_path).run()
    assert isinstance(failed, RollupFailed)
    assert "no archive" in failed.message or "backup.json" in failed.message
    assert failed.hint


async def test_the_answer_to_a_crash_is_its_last_line_and_not_all_that_it_said(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('x' * 3_000_000 + '\\n'); sys.stdout.write('y' * 3_000_000); 1 / 0"
    failed = await process(tmp_path, script=script).run()
    assert isinstance(failed, RollupFailed)
    assert failed.message == "the process that rolls up failed with code 1: ZeroDivisionError: division by zero"


async def test_an_answer_that_is_none_is_a_failure(tmp_path: Path) -> None:
    failed = await process(tmp_path, script="print('{')").run()
    assert isinstance(failed, RollupFailed)
    assert "failed with code 0" in failed.message


async def test_one_that_the_kernel_kills_says_what_it_needs(tmp_path: Path) -> None:
    failed = await process(tmp_path, script="import os; os.kill(os.getpid(), 9)").run()
    assert isinstance(failed, RollupFailed)
    assert failed.message == "the process that rolls up was killed by signal 9"
    assert "210 MiB" in failed.hint


async def test_a_program_that_cannot_be_started_is_a_failure(tmp_path: Path) -> None:
    storage = StorageSettings(backend=FilesystemSettings(path=tmp_path))
    failed = await RollupProcess(storage, BACKUP_ID, command=("/nowhere/python",)).run()
    assert isinstance(failed, RollupFailed)
    assert "could not be started" in failed.message


async def test_one_that_never_ends_is_ended_at_the_deadline(tmp_path: Path) -> None:
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    running = process(tmp_path, script=script, deadline_seconds=1e-3)
    failed = await running.run()
    assert isinstance(failed, RollupFailed)
    assert failed.timed_out
    assert running.pid is None


async def test_cancelled_it_has_killed_its_process_when_it_returns(tmp_path: Path) -> None:
    script = f"import os, time; print(file=open({str(tmp_path / 'begun')!r}, 'w')); time.sleep(600)"
    running = process(tmp_path, script=script)
    task = asyncio.create_task(running.run())
    await reaches((tmp_path / "begun").exists)
    pid = running.pid
    assert pid is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)


_DAEMON = """\
import asyncio, sys
from pathlib import Path
from kbackupd.daemon.rollup_process import RollupProcess
from kbackupd.model.settings import S3Settings, Secret, StorageSettings

async def main():
    s3 = S3Settings(bucket="bucket", region="r", endpoint=sys.argv[1], force_path_style=True,
                    access_key_id=Secret("AKIA0000"), secret_access_key=Secret("verysecret"))
    process = RollupProcess(StorageSettings(backend=s3), "main")
    running = asyncio.ensure_future(process.run())
    while process.pid is None:
        await asyncio.sleep(0.01)
    print(process.pid, flush=True)
    await running

asyncio.run(main())
"""


async def test_the_kernel_ends_it_with_its_daemon_and_until_then_it_gives_way_and_shows_no_secret() -> None:
    """Hazard 48; and SIGKILL of a daemon leaves no orphan that writes on beside the next life."""
    asked = asyncio.Event()

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(never_answers, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DAEMON, endpoint, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert daemon.stdout is not None
        pid = int(await daemon.stdout.readline())
        async with asyncio.timeout(120):
            await asked.wait()
        proc = Path("/proc") / str(pid)
        assert os.getpriority(os.PRIO_PROCESS, pid) >= NICENESS
        assert (proc / "oom_score_adj").read_text() == "1000\n"
        command = (proc / "cmdline").read_bytes()
        assert b"rollup_child" in command
        assert b"verysecret" not in command + (proc / "environ").read_bytes()
        daemon.kill()
        await reaches(lambda: not runs(pid))
    finally:
        if daemon.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                daemon.kill()
        await daemon.wait()
        server.close()
