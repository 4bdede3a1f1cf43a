"""The files of a run: written whole or not at all, the newest good checkpoint, one writer at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import torch

from pruning.errors import PruningError, RunStoppedError
from pruning.run_files import (
    KEPT_CHECKPOINTS,
    Checkpoints,
    EventLog,
    RunFolder,
    check_writable,
    hold,
    read_tensors,
    record_digest,
    run_folder,
    write_bytes,
    write_network,
    write_tensors,
)


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    for content in (b"first", b"second"):
        write_bytes(file, content)
        assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(RunStoppedError, match="could not be written"):
        write_bytes(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_tensors_come_back_to_the_bit_and_others_may_read_them(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    write_tensors(tmp_path / "file", tensors)
    found = read_tensors(tmp_path / "file")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_network_is_also_written_for_torch_load(tmp_path: Path) -> None:
    state = {"weight": torch.randn(3)}
    write_network(tmp_path / "net.pt", state)
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=True)["weight"], state["weight"])


def test_the_newest_whole_checkpoint_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    for number in range(4):
        checkpoints.save({"n": torch.tensor(number)}, {"number": number})
    assert len(list(tmp_path.glob("*.json"))) == KEPT_CHECKPOINTS
    tensors, facts = checkpoints.load() or ({}, {})
    assert (int(tensors["n"]), facts["number"]) == (3, 3)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_checkpoint_is_passed_over(suffix: str, damage: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(2):
        checkpoints.save({"n": torch.tensor(number)}, {"number": number})
    newest = max(tmp_path.glob(f"*.{suffix}"))
    content = newest.read_bytes()
    if damage == "missing":
        newest.unlink()
    elif damage == "truncated":
        newest.write_bytes(content[:-3])
    else:
        newest.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded[1]["number"] == 0


def test_a_checkpoint_can_be_saved_after_a_damaged_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"n": torch.tensor(0)}, {"number": 0})
    max(tmp_path.glob("*.json")).write_text("{")
    checkpoints.save({"n": torch.tensor(1)}, {"number": 1})
    assert (checkpoints.load() or ({}, {}))[1]["number"] == 1


def test_a_log_is_cut_back_to_where_the_checkpoint_was(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events", 0)
    log.write({"n": 1})
    length = log.length
    log.write({"n": 2})
    log.close()
    again = EventLog(tmp_path / "events", length)
    again.write({"n": 3})
    again.close()
    assert [json.loads(line)["n"] for line in (tmp_path / "events").read_text().splitlines()] == [1, 3]


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        EventLog(tmp_path / "events", 0).write({"loss": float("nan")})


def _hold(
    lock: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event
) -> None:
    with hold(lock, "This"):
        ready.set()
        done.wait(60)


def test_a_second_process_is_told_who_holds_the_lock_and_may_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", ready, done))
    other.start()
    assert ready.wait(60)
    with (
        pytest.raises(PruningError, match=f"The run is being done by process {other.pid} on "),
        hold(tmp_path / "lock", "The run"),
    ):
        pass
    told: list[str] = []
    with hold(tmp_path / "lock", "The run", told.append, done.set):
        assert f"process {other.pid}" in told[0]
    other.join()


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", ready, done))
    other.start()
    assert ready.wait(60)
    other.kill()
    other.join()
    with hold(tmp_path / "lock", "The run"):
        pass


def test_a_damaged_record_is_refused_by_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_result() is None
    folder.result.write_text('{"schema_version": 1')
    with pytest.raises(PruningError, match="is damaged"):
        folder.read_result()


def test_the_record_is_sealed_with_digests(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "run")
    write_tensors(folder.model, {"w": torch.ones(2)})
    write_tensors(folder.masks, {"w": torch.ones(2, dtype=torch.bool)})
    sealed = folder.write_result({"schema_version": 1, "final": {"top1": 80.0}})
    assert json.loads(folder.result.read_text()) == sealed
    assert sealed["sha256"]["result.json"] == record_digest(sealed)
    sealed["final"]["top1"] = 80.1
    assert sealed["sha256"]["result.json"] != record_digest(sealed)


def test_a_runs_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PruningError, match="is not a folder"):
        check_writable(tmp_path / "file" / "runs")
    check_writable(tmp_path / "not" / "yet" / "there")
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PruningError, match="cannot be written to"):
        check_writable(tmp_path / "runs")
