"""Atomic files: the old or the new content, never a part; and checks before anything is written."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest
import torch

from pruning.errors import PruningError, RunStoppedError
from pruning.utils.files import (
    atomic_file,
    check_file_writable,
    check_folder_writable,
    read_tail,
    read_tensors,
    write_bytes_atomic,
    write_state_dict_atomic,
    write_tensors_atomic,
)


def test_a_written_file_replaces_the_old_one_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    for content in (b"first", b"second"):
        write_bytes_atomic(file, content)
        assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


def test_an_error_while_writing_keeps_the_old_file_and_deletes_the_temporary_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(file) as temporary:
        temporary.write_text("new, but unfini")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_write_leaves_the_folder_unchanged(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(RunStoppedError, match="taken could not be written"):
        write_bytes_atomic(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_tensors_are_read_back_bit_for_bit_from_a_file_with_default_permissions(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    write_tensors_atomic(tmp_path / "file", tensors)
    found = read_tensors(tmp_path / "file")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_state_dict_in_a_pt_file_is_read_by_torch_load(tmp_path: Path) -> None:
    state = {"weight": torch.randn(3)}
    write_state_dict_atomic(tmp_path / "net.pt", state)
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=True)["weight"], state["weight"])


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_a_state_dict_that_exceeds_the_disk_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    write_state_dict_atomic(file, {"weight": torch.zeros(1)})
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunStoppedError, match=f"{name} could not be written"):
            write_state_dict_atomic(file, {"weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_damaged_tensor_file_raises_another_error_than_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        read_tensors(tmp_path / "damaged")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "missing")


def test_read_tail_returns_at_most_the_given_number_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"first second")
    assert read_tail(tmp_path / "log", 6) == b"second"
    assert read_tail(tmp_path / "log", 100) == b"first second"
    assert read_tail(tmp_path / "none", 6) == b""


def test_a_folder_below_a_file_is_rejected_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PruningError, match=r"--runs-dir .*file is not a folder"):
        check_folder_writable(tmp_path / "file" / "runs", "--runs-dir")
    check_folder_writable(tmp_path / "not" / "yet" / "there", "--runs-dir")
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_rejected_with_the_option(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PruningError, match=r"--runs-dir .* is not writable"):
        check_folder_writable(tmp_path / "runs", "--runs-dir")


def test_a_file_without_an_existing_folder_or_at_a_folder_is_rejected_with_the_option(tmp_path: Path) -> None:
    check_file_writable(tmp_path / "net.pt", "--save-path")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PruningError, match=r"--save-path .*net.pt: the folder .*none does not exist"):
        check_file_writable(tmp_path / "none" / "net.pt", "--save-path")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(PruningError, match=r"--save-path .*folder.pt"):
        check_file_writable(tmp_path / "folder.pt", "--save-path")
