"""Files written whole or not at all: tensors to the bit, and a refusal before anything is begun."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest
import torch

from pruning.errors import PruningError, RunStoppedError
from pruning.utils.files import (
    check_savable,
    check_writable,
    end_of_file,
    read_tensors,
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


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_a_network_that_the_disk_does_not_take_leaves_the_old_one_and_is_said(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    write_network(file, {"weight": torch.zeros(1)})
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunStoppedError, match=f"{name} could not be written"):
            write_network(file, {"weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_damaged_file_of_tensors_is_told_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        read_tensors(tmp_path / "damaged")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "missing")


def test_the_end_of_a_file_is_read_without_the_rest(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"first second")
    assert end_of_file(tmp_path / "log", 6) == b"second"
    assert end_of_file(tmp_path / "log", 100) == b"first second"
    assert end_of_file(tmp_path / "none", 6) == b""


def test_a_runs_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PruningError, match="is not a folder"):
        check_writable(tmp_path / "file" / "runs", "--runs-dir")
    check_writable(tmp_path / "not" / "yet" / "there", "--runs-dir")
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PruningError, match="cannot be written to"):
        check_writable(tmp_path / "runs", "--runs-dir")


def test_a_network_goes_into_a_folder_that_is_there(tmp_path: Path) -> None:
    check_savable(tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PruningError, match="there is no folder"):
        check_savable(tmp_path / "none" / "net.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(PruningError, match="no file can be written there"):
        check_savable(tmp_path / "folder.pt")
