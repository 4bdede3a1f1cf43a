"""Start one command many times at once, and see whether one result comes of it and no damage.

    python tests/start_many.py 20

One process does the run; the others must say who does it (exit code 2), or show the result if they come late (0).
Afterwards the record must verify, and equal that of a single undisturbed process. Exit code 1 if anything is amiss.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from conftest import events, outcome, start

COMMAND = ("--name", "run", "--epochs", "1", "--finetune-epochs", "1", "--rounds", "1", "--quiet")


def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run = place / "runs/run"
        assert start(*COMMAND, cwd=place).wait() == 0
        undisturbed = outcome(run)
        shutil.rmtree(place / "runs")
        processes = [start(*COMMAND, cwd=place) for _ in range(count)]
        endings = Counter(ending(process.communicate()[1], process.returncode) for process in processes)
        for what, times in endings.most_common():
            print(f"{times:4} {what}")
        checks = {
            "all ended as they should": set(endings) <= {DONE, REFUSED} and endings[DONE] >= 1,
            "the run was done once": sum(event["event"] == "result" for event in events(run)) == 1,
            "same as undisturbed": outcome(run) == undisturbed,
            "the record verifies": start("verify", run, cwd=place).wait() == 0,
        }
    for what, holds in checks.items():
        print(f"{what}: {'yes' if holds else 'NO'}")
    return 0 if all(checks.values()) else 1


DONE = "did it, or showed the result"
REFUSED = "said who is doing it"


def ending(said: str, code: int) -> str:
    if code == 0:
        return DONE
    return REFUSED if code == 2 and "in use by process" in said else f"exit code {code}: {said}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
