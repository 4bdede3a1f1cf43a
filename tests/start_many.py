"""Start one command many times at once, and check that the processes produce one correct record.

    python tests/start_many.py 20

One process does the run. The others report which process does it (exit code 2), or show its result if they start late
(exit code 0). The record must verify and equal the record of a single process. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from conftest import events, reproducible_result, start

COMMAND = ("--name", "run", "--epochs", "1", "--finetune-epochs", "1", "--rounds", "1", "--quiet")


def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run = place / "runs/run"
        assert start(*COMMAND, cwd=place).wait() == 0
        expected = reproducible_result(run)
        shutil.rmtree(place / "runs")
        processes = [start(*COMMAND, cwd=place) for _ in range(count)]
        endings = Counter(ending(process.communicate()[1], process.returncode) for process in processes)
        for kind, times in endings.most_common():
            print(f"{times:4} {kind}")
        checks = {
            "every process ended as expected": set(endings) <= {DONE, REFUSED} and endings[DONE] >= 1,
            "the run was done once": sum(event["event"] == "result" for event in events(run)) == 1,
            "the record equals that of one process": reproducible_result(run) == expected,
            "the record verifies": start("verify", run, cwd=place).wait() == 0,
        }
    for check, passed in checks.items():
        print(f"{check}: {'yes' if passed else 'NO'}")
    return 0 if all(checks.values()) else 1


DONE = "did the run or showed its result"
REFUSED = "reported the process that does the run"


def ending(stderr: str, code: int) -> str:
    """Return how a process ended, as a key for the summary."""
    if code == 0:
        return DONE
    return REFUSED if code == 2 and "in use by process" in stderr else f"exit code {code}: {stderr}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
