"""Kill a run many times, start it again each time, and see whether it ends as if nothing had happened.

    python tests/kill_many.py 50

Runs the default command, shortened, once undisturbed. Then it is started, killed with SIGKILL at a random time (one in
ten before it works), and started again with the same command to its end, which must give the same metrics and masks to
the bit; so many times. A line per kill says where the run was when it was killed. Exit code 1 if any end differs.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from conftest import events, outcome, start

COMMAND = (
    *("--name", "run", "--epochs", "2", "--finetune-epochs", "1", "--rounds", "2", "--quiet"),
    *("--log-interval", "5", "--checkpoint-interval", "0.1", "--batch-size", "256"),
)
SEED = 1


def main(kills: int) -> int:
    chance = random.Random(SEED)
    stages: Counter[str] = Counter()
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run = place / "runs/run"
        finish(place)
        times = [event["time"] for event in events(run)]
        undisturbed = outcome(run)
        for number in range(1, kills + 1):
            shutil.rmtree(place / "runs")
            works = number % 10 != 0
            after = chance.uniform(0, times[-1] - times[0] if works else 2)
            stage = kill_after(after, place, once_it_works=works)
            stages[stage] += 1
            finish(place)
            same = outcome(run) == undisturbed
            differing += not same
            verdict = "same" if same else "DIFFERENT"
            print(f"kill {number:3}  after {after:5.2f} s  in {stage:24}  {verdict}", flush=True)
    for stage, count in stages.most_common():
        print(f"{count:4} kills in {stage}")
    print(f"{kills - differing} of {kills} ended as the undisturbed run did")
    return 1 if differing else 0


def finish(place: Path) -> None:
    """The command to its end."""
    process = start(*COMMAND, cwd=place)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said


def kill_after(seconds: float, place: Path, *, once_it_works: bool) -> str:
    """Start the command, kill it after a time (from the first line of its log, or from the start); where was it?"""
    process = start(*COMMAND, cwd=place)
    while once_it_works and process.poll() is None and not events(place / "runs/run"):
        time.sleep(0.005)
    time.sleep(seconds)
    ended = process.poll() is not None
    process.kill()
    process.communicate()
    return "nothing: it had ended" if ended else stage_of(place / "runs/run")


def stage_of(run: Path) -> str:
    """What the last thing is that a run's log tells."""
    told = events(run)
    last = told[-1] if told else {"event": "start-up"}
    if (run / "result.json").exists():
        return "the end, all written"
    phase = f" {last['phase']}" if "phase" in last else ""
    turn = f" of round {last['round']}" if "round" in last else ""
    return f"{last['event']}{phase}{turn}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
