"""The folders of allocations on disk, and when they go."""

import json
import os
import stat
from pathlib import Path

import pytest

from nvshare.bus.node_directory import NodeDirectory
from nvshare.device_plugin.folders import Folders
from nvshare.device_plugin.keeping import Absences, removable
from nvshare.device_plugin.records import Record
from nvshare.device_plugin.shares import Share

RECORD = Record("ab12", (Share("GPU-0", 1),), 5)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(NodeDirectory(tmp_path))


def test_a_folder_says_what_it_is_after_a_restart(folders: Folders, tmp_path: Path) -> None:
    folders.write(RECORD)
    assert Folders(NodeDirectory(tmp_path)).read_all() == {"ab12": RECORD}


def test_its_library_is_preloaded_by_a_file_of_one_line(folders: Folders) -> None:
    folders.write(RECORD)
    preload = folders.path("ab12") / "ld.so.preload"
    assert preload.read_text() == "/usr/local/nvshare/current/libnvshare.so\n"


def test_who_opted_out_has_nothing_preloaded(folders: Folders) -> None:
    folders.write(Record("ab12", RECORD.shares, 5, opted_out=True))
    assert (folders.path("ab12") / "ld.so.preload").read_text() == ""


def test_everybody_may_read_it_whatever_the_umask(folders: Folders) -> None:
    before = os.umask(0o077)
    try:
        folders.write(RECORD)
    finally:
        os.umask(before)
    folder = folders.path("ab12")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *sorted(folder.iterdir()))]
    assert modes == [0o755, 0o644, 0o644]


def test_what_is_missing_is_made_again(folders: Folders) -> None:
    folders.write(RECORD)
    (folders.path("ab12") / "ld.so.preload").unlink()
    (folders.path("ab12") / "ld.so.preload").mkdir()  # as a runtime leaves it
    (folders.path("ab12") / "allocation.json").unlink()
    folders.write(RECORD)
    assert (folders.path("ab12") / "ld.so.preload").is_file()
    assert json.loads((folders.path("ab12") / "allocation.json").read_text())["id"] == "ab12"


def test_a_file_that_is_right_is_not_replaced_under_a_container_that_has_it_mounted(folders: Folders) -> None:
    folders.write(RECORD)
    before = (folders.path("ab12") / "ld.so.preload").stat().st_ino
    folders.write(RECORD.with_quota(RECORD.quota, "pod", 9))
    assert (folders.path("ab12") / "ld.so.preload").stat().st_ino == before


def test_a_change_by_somebody_else_is_seen(folders: Folders, tmp_path: Path) -> None:
    folders.write(RECORD)
    changed = RECORD.with_quota(RECORD.quota, "pod", 9)
    Folders(NodeDirectory(tmp_path)).write(changed)
    assert folders.read_all() == {"ab12": changed}


def test_other_folders_are_left_alone(folders: Folders, tmp_path: Path) -> None:
    for name, text in {"run-1": '{"source": "run"}', "half": "{", "empty": ""}.items():
        (tmp_path / "allocations" / name).mkdir(parents=True)
        (tmp_path / "allocations" / name / "allocation.json").write_text(text)
    assert folders.read_all() == {}


def test_two_folders_never_have_one_name(folders: Folders) -> None:
    assert len({folders.new_id() for _ in range(1000)}) == 1000


def test_a_label_is_set_where_the_host_has_labels_and_missing_where_it_has_not(tmp_path: Path) -> None:
    folders = Folders(NodeDirectory(tmp_path), "system_u:object_r:container_file_t:s0")
    folders.write(RECORD)
    assert folders.read_all() == {"ab12": RECORD}


def test_a_pod_must_be_absent_twice_a_minute_apart() -> None:
    absences = Absences(60)
    absences.seen({"ab12"}, 100)
    assert absences.gone(100) == set()
    absences.seen({"ab12"}, 160)
    assert absences.gone(160) == {"ab12"}


def test_a_pod_that_was_there_meanwhile_is_not_gone() -> None:
    absences = Absences(60)
    absences.seen({"ab12"}, 100)
    absences.seen(set(), 130)
    absences.seen({"ab12"}, 170)
    assert absences.gone(170) == set()


def test_a_folder_goes_only_when_no_process_lives_in_it() -> None:
    assert removable({"a"}, {"b", "c"}, {"b": 1}) == {"a", "c"}


def test_no_folder_goes_while_the_relay_is_silent() -> None:
    assert removable({"a"}, {"b"}, None) == set()
