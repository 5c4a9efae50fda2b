"""The text of allocation.json, and kubelet's checkpoint."""

import base64
import json

import pytest

from nvshare.device_plugin.checkpoint import Entry, parse_checkpoint
from nvshare.device_plugin.injection import CLIENT_FOLDER
from nvshare.device_plugin.quotas import Quota
from nvshare.device_plugin.records import POD, Pod, Record, RecordError, is_foreign, parse_record
from nvshare.device_plugin.shares import Share
from nvshare.kubelet.device_plugin_pb2 import ContainerAllocateResponse, Mount

RECORD = Record(
    "ab12",
    (Share("GPU-0", 1), Share("GPU-0", 4), Share("GPU-1", 0)),
    made_unix_ns=5,
    started_unix_ns=7,
    pod=Pod("default", "web", "uid-1", "app"),
    quota=Quota(2**30, 30, 200, "best-effort", core_burst=True, group="default/team"),
    quota_source=POD,
    quota_since_unix_ns=6,
    opted_out=True,
)


def test_what_is_written_is_read_again() -> None:
    assert parse_record(RECORD.to_json(), "ab12") == RECORD


def test_several_shares_of_one_gpu_are_one_gpu() -> None:
    assert json.loads(RECORD.to_json())["gpus"] == ["GPU-0", "GPU-1"]


def test_the_name_for_people_is_the_container() -> None:
    assert RECORD.to_message().name == "default/web/app"


def test_a_long_name_is_cut_to_what_a_relay_takes() -> None:
    record = Record("ab12", (Share("GPU-0", 0),), 1, pod=Pod("namespace", "p" * 200, "", "app"))
    assert len(record.to_message().name) == 64
    assert record.to_message().name.endswith("/app")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        RECORD.to_json().replace('"ab12"', '"other"'),
        RECORD.to_json().replace("GPU-0::1", "GPU-0"),
        RECORD.to_json().replace('"made_unix_ns": 5', '"made_unix_ns": "5"'),
    ],
)
def test_a_text_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(RecordError):
        parse_record(text, "ab12")


def test_a_quota_out_of_its_bounds_is_not_taken_over() -> None:
    text = RECORD.to_json().replace('"core_limit_percent": 30', '"core_limit_percent": 300')
    assert parse_record(text, "ab12").quota.core_limit_percent == 0


def test_an_allocation_of_nvshare_run_is_somebody_elses() -> None:
    assert is_foreign('{"source": "run"}')
    assert not is_foreign(RECORD.to_json())


def checkpoint(devices: object, answer: str) -> str:
    entry = {
        "PodUID": "uid-1",
        "ContainerName": "app",
        "ResourceName": "nvshare.com/gpu",
        "DeviceIDs": devices,
        "AllocResp": answer,
    }
    other = {**entry, "ResourceName": "other.com/nic"}
    return json.dumps({"Data": {"PodDeviceEntries": [other, entry], "RegisteredDevices": {}}, "Checksum": 1})


def test_the_checkpoint_says_which_folder_a_container_has() -> None:
    mounts = [
        Mount(container_path="/etc/other", host_path="/x"),
        Mount(container_path=CLIENT_FOLDER, host_path="/var/lib/nvshare/allocations/ab12"),
    ]
    answer = base64.b64encode(ContainerAllocateResponse(mounts=mounts).SerializeToString()).decode()
    shares = frozenset({Share("GPU-0", 1), Share("GPU-1", 0)})
    text = checkpoint({"0": ["GPU-0::1"], "-1": ["GPU-1::0"]}, answer)
    assert parse_checkpoint(text, "nvshare.com/gpu") == (Entry("uid-1", "app", shares, "ab12"),)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Data": {"PodDeviceEntries": 3}}', checkpoint(["GPU-0"], ""), checkpoint([], "%")]
)
def test_a_checkpoint_that_cannot_be_read_says_nothing(text: str) -> None:
    assert [one for one in parse_checkpoint(text, "nvshare.com/gpu") if one.allocation or one.shares] == []
