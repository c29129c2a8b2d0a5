"""`python -m kbackupd.testbed.soak --hours H [--seed N]`: load and random faults for hours, and nothing may be missing.

Rounds: live load on topics of every kind while faults strike from two lanes (`soak_faults.py`); then all is healed, the
load stops, the daemon recovers by itself and flushes, and what the archive gained is compared with what was produced
(`soak_check.py`). Every fourth round is calm, to see what calm costs. At the end the whole archive is read once more,
the cluster is destroyed, and what it had last is restored into an empty one and compared too.

Exit code 0 only if not one record differed, the archive was valid whenever it was asked, and memory stayed within its
limit. Otherwise everything is kept for the post-mortem: data, logs, and the plan of every round, which the seed gives
again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from kbackupd.model.errors import KbackupError
from kbackupd.testbed.interrupts import Interrupts
from kbackupd.testbed.soak_run import Options, Say, Soak


def main() -> int:
    """Exit code 0 all held, 1 it did not, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m kbackupd.testbed.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="of load and faults; by default another one every time")
    parser.add_argument("--rounds", type=int, default=None, help="exactly so many, instead of --hours")
    parser.add_argument("--round-seconds", type=float, default=50.0)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3, help="of the Kafka cluster")
    parser.add_argument("--rate", type=float, default=0.6, help="1: about 1,000 records a second")
    chosen = parser.parse_args()
    options = Options(
        seed=chosen.seed if chosen.seed is not None else random.randrange(1 << 31),
        seconds=chosen.hours * 3600,
        rounds=chosen.rounds,
        round_seconds=chosen.round_seconds,
        nodes=chosen.nodes,
        rate=chosen.rate,
    )
    interrupts = Interrupts()
    home = Path(tempfile.mkdtemp(prefix="kbackupd-soak-"))
    passed = False
    try:
        passed = soak(options, home, _say)
    except (KeyboardInterrupt, Exception):
        if not interrupts.met:
            raise
        _say("interrupted; nothing is left running")
        return 130
    finally:
        if not passed:
            _say(f"kept: {home}")
    return 0 if passed else 1


def soak(options: Options, home: Path, say: Say) -> bool:
    """A whole soak with its report; True if all held. Leaves nothing running, and nothing in `home` if all held."""
    run = Soak(options, home, say)
    passed = False
    try:
        passed = run.run()
    except KbackupError as error:
        run.figures.differences.append(error.message)
    finally:
        run.close()
        say("soak at its end:")
        for line in run.figures.lines():
            say(line)
        for difference in run.figures.differences[:30]:
            say(f"  DIFFERENCE {difference}")
        if not passed:
            for line in run.last_words(40):
                say(f"  | {line}")
    if passed:
        run.remove()
    say("PASSED: every record that was produced is in the archive, at its offset, once." if passed else "FAILED")
    return passed


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
