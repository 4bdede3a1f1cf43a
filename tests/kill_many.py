"""Kill a run many times, resume it each time, and check that the result stays bit-identical.

    python tests/kill_many.py 50

Runs a shortened default command once without interruption. Then, 50 times: starts it, kills it with SIGKILL at a random
time (every tenth time during start-up), resumes it with the same command, and compares metrics, masks and weights.
Prints one line per kill with the stage of the run at that time. The exit code is 1 if any result differs.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from conftest import events, reproducible_result, start

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
        expected = reproducible_result(run)
        for number in range(1, kills + 1):
            shutil.rmtree(place / "runs")
            after_start = number % 10 != 0
            seconds = chance.uniform(0, times[-1] - times[0] if after_start else 2)
            stage = kill_after(seconds, place, from_first_event=after_start)
            stages[stage] += 1
            finish(place)
            same = reproducible_result(run) == expected
            differing += not same
            verdict = "same" if same else "DIFFERENT"
            print(f"kill {number:3}  after {seconds:5.2f} s  in {stage:24}  {verdict}", flush=True)
    for stage, count in stages.most_common():
        print(f"{count:4} kills in {stage}")
    print(f"{kills - differing} of {kills} results equal the result without a kill")
    return 1 if differing else 0


def finish(place: Path) -> None:
    """Run the command until it ends."""
    process = start(*COMMAND, cwd=place)
    outputs = process.communicate(timeout=300)
    assert process.returncode == 0, outputs


def kill_after(seconds: float, place: Path, *, from_first_event: bool) -> str:
    """Start the command, kill it after `seconds` from its start or its first event, and return its stage."""
    process = start(*COMMAND, cwd=place)
    while from_first_event and process.poll() is None and not events(place / "runs/run"):
        time.sleep(0.005)
    time.sleep(seconds)
    ended = process.poll() is not None
    process.kill()
    process.communicate()
    return "no stage: already ended" if ended else stage_of(place / "runs/run")


def stage_of(run: Path) -> str:
    """Return the stage of a run according to the last event of its log."""
    logged = events(run)
    last = logged[-1] if logged else {"event": "start-up"}
    if (run / "result.json").exists():
        return "end, record written"
    phase = f" {last['phase']}" if "phase" in last else ""
    number = f" of round {last['round']}" if "round" in last else ""
    return f"{last['event']}{phase}{number}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
