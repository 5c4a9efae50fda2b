"""The folder of a node: who may change it, and what a node removes in it."""

import os
from pathlib import Path

import pytest

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.cli.node_folder import check_directory, emulated_cards
from nvshare.cli.node_options import NodeOptions


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_folder_is_for_all_to_read_and_for_its_owner_to_change_whatever_the_umask(
    folder: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        check_directory(folder / "node")
    finally:
        os.umask(before)
    assert (folder / "node").stat().st_mode & 0o777 == 0o755


def test_a_folder_into_which_others_may_write_is_refused(folder: Path) -> None:
    folder.chmod(0o775)
    with pytest.raises(CommandError, match="chmod go-w"):
        check_directory(folder)


@pytest.mark.parametrize("emulated_gpus", [0, 1])
def test_a_start_removes_nothing_but_the_state_of_emulated_cards(folder: Path, emulated_gpus: int) -> None:
    kept = [folder / "emulator-notes", folder / "emulator" / "src", folder / "emulated-cards" / "notes"]
    left_over = folder / "emulated-cards" / "0123abcd"
    for path in (*kept, left_over):
        path.mkdir(parents=True)
        (path / "data").touch()
    with emulated_cards(NodeDirectory(folder), NodeOptions(folder, emulated_gpus)):
        assert not left_over.exists()
    assert all((path / "data").exists() for path in kept)


def test_the_state_of_emulated_cards_goes_with_the_node(folder: Path) -> None:
    with emulated_cards(NodeDirectory(folder), NodeOptions(folder, emulated_gpus=1)) as cards:
        assert cards is not None
        (cards.folder / "card").touch()
    assert list(folder.iterdir()) == []


def test_a_link_in_place_of_the_state_of_emulated_cards_is_not_followed(folder: Path) -> None:
    elsewhere = folder / "elsewhere" / "0123abcd"
    elsewhere.mkdir(parents=True)
    (folder / "node").mkdir()
    (folder / "node" / "emulated-cards").symlink_to(folder / "elsewhere")
    with emulated_cards(NodeDirectory(folder / "node"), NodeOptions(folder / "node")):
        assert elsewhere.exists()
