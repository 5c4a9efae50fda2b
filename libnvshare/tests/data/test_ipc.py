"""Memory of one process in another, by the handles of cuIpcGetMemHandle."""

import os
import socket
import struct
import threading
from typing import Any

from libnvshare.tests.data.conftest import MIB, Client, Program, Run, ScriptedRelay

# The emulated driver has no such handles of its own, so the functions are looked up where a linked program finds them.
IPC = """
        import ctypes
        preload = ctypes.CDLL(None)

        class Handle(ctypes.Structure):
            _fields_ = [("reserved", ctypes.c_ubyte * 64)]

        def named(code):
            return driver.CUresult(code).name

        def export(address):
            handle = Handle()
            result = preload.cuIpcGetMemHandle(ctypes.byref(handle), ctypes.c_uint64(int(address)))
            return named(result), bytes(handle).hex()

        def open_handle(text, flags=1):
            handle, address = Handle.from_buffer_copy(bytes.fromhex(text)), ctypes.c_uint64()
            result = preload.cuIpcOpenMemHandle_v2(ctypes.byref(address), handle, flags)
            return named(result), address.value

        def close_handle(address):
            return named(preload.cuIpcCloseMemHandle(ctypes.c_uint64(address)))
"""

# Exports an odd block behind another one, and tells what is in it at each word.
EXPORTER = (
    IPC
    + """
        gpu = Gpu()
        other, held = gpu.allocate(3 * MIB), gpu.allocate(5 * MIB + 512)
        ok(driver.cuMemsetD8(held, 3, 5 * MIB + 512))
        gpu.synchronize()
        result, handle = export(held + 4096)
        say(result=result, handle=handle, own=open_handle(handle)[0])
        while word := hear():
            if word == "free":
                ok(driver.cuMemFree(held))
                say(freed=True)
            else:
                say(first=gpu.read(held, 1)[0])
"""
)

IMPORTER = (
    IPC
    + """
        gpu = Gpu()
        say(ready=True)
        handle = hear()
        result, address = open_handle(handle)
        if result != "CUDA_SUCCESS":
            say(result=result)
            sys.exit(0)
        start, size_bytes = ok(driver.cuMemGetAddressRange(address + 5000))
        kind = ok(driver.cuPointerGetAttribute(driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address))
        last = gpu.read(address + size_bytes - 1, 1)[0]
        ok(driver.cuMemsetD8(address, 9, 512))
        gpu.synchronize()
        again = open_handle(handle)
        say(result=result, own_start=int(start) == address, size_bytes=size_bytes, kind=int(kind), last=last,
            again=again == (result, address))
        if hear() == "fork":
            read_end, write_end = os.pipe()
            if os.fork() == 0:  # lives as long as the parent
                [os.close(end) for end in (0, 1, write_end)]
                os.read(read_end, 1)
                os._exit(0)
        say(closed=[close_handle(address), close_handle(address), close_handle(address)],
            after=error_of(driver.cuMemGetAddressRange(address)))
        hear()
"""
)


def exporter(relay: ScriptedRelay, run: Run) -> tuple[Program, Client, dict[str, Any]]:
    program = run(EXPORTER)
    client = relay.client_with_plan()
    words = program.said()
    assert (words["result"], words["own"]) == ("CUDA_SUCCESS", "CUDA_ERROR_INVALID_CONTEXT")
    return program, client, words


def importer(relay: ScriptedRelay, run: Run, handle: str) -> tuple[Program, Client, dict[str, Any]]:
    program = run(IMPORTER)
    client = relay.client_with_plan()
    program.said()
    program.tell(handle)
    return program, client, program.said()


def test_another_process_reads_and_writes_an_exported_block(relay: ScriptedRelay, run: Run) -> None:
    source, _, words = exporter(relay, run)
    target, client, found = importer(relay, run, words["handle"])
    assert found == {
        "result": "CUDA_SUCCESS",
        "own_start": True,
        "size_bytes": 5 * MIB + 512,
        "kind": 2,
        "last": 3,
        "again": True,
    }
    source.tell("read")
    assert source.said() == {"first": 9}
    report = client.report_where(lambda report: report.gang)
    assert report.footprint_bytes == report.resident_bytes == 0  # it is the exporter's
    target.tell()
    invalid = "CUDA_ERROR_INVALID_VALUE"
    assert target.said() == {"closed": ["CUDA_SUCCESS", "CUDA_SUCCESS", invalid], "after": "CUDA_ERROR_NOT_FOUND"}


def test_an_exported_block_is_pinned_until_it_is_freed(relay: ScriptedRelay, run: Run) -> None:
    source, client, _ = exporter(relay, run)
    report = client.report_where(lambda report: report.pinned_bytes > 0)
    assert report.pinned_bytes >= 6 * MIB
    assert report.pinned_reason == "1 block exported by cuIpcGetMemHandle"
    since = len(client.reports)
    source.tell("free")
    source.said()
    client.report_where(lambda report: report.pinned_bytes == 0 and report.pinned_reason == "", since)


def test_what_another_process_still_has_mapped_stays_counted_as_pinned_after_it_was_freed(
    relay: ScriptedRelay, run: Run
) -> None:
    source, client, words = exporter(relay, run)
    target, _, _ = importer(relay, run, words["handle"])
    held = client.report_where(lambda report: report.pinned_bytes > 0)
    since = len(client.reports)
    source.tell("free")
    source.said()
    freed = client.report_where(lambda report: report.footprint_bytes == 3 * MIB, since)
    assert (freed.pinned_bytes, freed.needed_bytes) == (held.pinned_bytes, held.needed_bytes)
    since = len(client.reports)
    target.tell()
    target.said()
    client.report_where(lambda report: report.pinned_bytes == 0 and report.needed_bytes < held.needed_bytes, since)


def freed_while_mapped(relay: ScriptedRelay, run: Run) -> tuple[Client, Program]:
    """A client whose freed memory another program, given too, still has mapped."""
    source, client, words = exporter(relay, run)
    target, _, _ = importer(relay, run, words["handle"])
    source.tell("free")
    source.said()
    client.report_where(lambda report: report.footprint_bytes == 3 * MIB and report.pinned_bytes > 0)
    return client, target


def test_what_another_process_has_closed_is_given_back_although_its_children_live(
    relay: ScriptedRelay, run: Run
) -> None:
    client, target = freed_while_mapped(relay, run)
    since = len(client.reports)
    target.tell("fork")
    target.said()
    client.report_where(lambda report: report.pinned_bytes == 0, since)


def test_what_a_process_had_mapped_that_has_died_is_given_back(relay: ScriptedRelay, run: Run) -> None:
    client, target = freed_while_mapped(relay, run)
    since = len(client.reports)
    target.close()
    client.report_where(lambda report: report.pinned_bytes == 0, since)


def test_who_says_nothing_keeps_no_importer_waiting(relay: ScriptedRelay, run: Run) -> None:
    _, _, words = exporter(relay, run)
    name = f"\0nvshare-ipc-{int.from_bytes(bytes.fromhex(words['handle'])[8:16], 'little'):016x}"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(name)
        _, _, found = importer(relay, run, words["handle"])
    assert found["result"] == "CUDA_SUCCESS"


def test_a_handle_of_a_block_that_is_gone_is_invalid(relay: ScriptedRelay, run: Run) -> None:
    source, _, words = exporter(relay, run)
    source.tell("free")
    source.said()
    _, _, found = importer(relay, run, words["handle"])
    assert found == {"result": "CUDA_ERROR_INVALID_VALUE"}


def test_a_handle_of_a_process_that_is_gone_is_invalid(relay: ScriptedRelay, run: Run) -> None:
    source, _, words = exporter(relay, run)
    source.close()
    _, _, found = importer(relay, run, words["handle"])
    assert found == {"result": "CUDA_ERROR_INVALID_VALUE"}


def test_who_does_not_know_the_secret_gets_nothing(relay: ScriptedRelay, run: Run) -> None:
    source, _, words = exporter(relay, run)
    handle = bytearray.fromhex(words["handle"])
    name = f"\0nvshare-ipc-{int.from_bytes(handle[8:16], 'little'):016x}"
    handle[16] ^= 1
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(name)
        stranger.sendall(handle)
        assert stranger.recv(64) == b""
    _, _, found = importer(relay, run, handle.hex())
    assert found == {"result": "CUDA_ERROR_INVALID_VALUE"}
    source.tell("read")
    assert source.said() == {"first": 3}


def test_an_exporter_that_ends_in_the_middle_of_its_answer_gives_no_memory(relay: ScriptedRelay, run: Run) -> None:
    _, _, words = exporter(relay, run)
    handle = bytearray.fromhex(words["handle"])
    answer = struct.Struct("<QQII")
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(f"\0nvshare-ipc-{int.from_bytes(handle[8:16], 'little'):016x}")
        asking.sendall(handle)
        offset_bytes, size_bytes, extents, _ = answer.unpack(asking.recv(answer.size, socket.MSG_WAITALL))
        extent, descriptors, _, _ = socket.recv_fds(asking, 8, 1)
    handle[8:16] = b"torn-one"
    with socket.socket(socket.AF_UNIX) as torn:
        torn.bind(f"\0nvshare-ipc-{int.from_bytes(handle[8:16], 'little'):016x}")
        torn.listen()

        def answer_half() -> None:
            connection, _ = torn.accept()
            with connection:
                connection.recv(len(handle), socket.MSG_WAITALL)
                connection.sendall(answer.pack(offset_bytes, size_bytes, extents + 1, 0))
                socket.send_fds(connection, [extent], descriptors)

        serving = threading.Thread(target=answer_half)
        serving.start()
        _, _, found = importer(relay, run, handle.hex())
        serving.join()
    os.close(descriptors[0])
    assert found == {"result": "CUDA_ERROR_INVALID_VALUE"}
