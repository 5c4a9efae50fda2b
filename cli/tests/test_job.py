"""Which GPUs a program gets."""

from nvshare.cli.job import choose_gpus
from nvshare.v1.control_pb2 import ClientStatus, GpuStatus, StatusReply
from nvshare.v1.node_pb2 import Allocation


def test_the_gpu_of_the_fewest_allocations_is_the_least_shared_whatever_their_programs_do() -> None:
    busy = [ClientStatus(client=f"{pid}-a") for pid in range(3)]  # three processes of one program
    gpus = [GpuStatus(uuid="GPU-0", index=0), GpuStatus(uuid="GPU-1", index=1, clients=busy)]
    allocations = [Allocation(id="a", gpus=["GPU-0"]), Allocation(id="b", gpus=["GPU-0"])]
    allocations += [Allocation(id="c", gpus=["GPU-1"])]
    assert choose_gpus(StatusReply(gpus=gpus, allocations=allocations), None) == ("GPU-1",)


def test_the_first_of_equally_shared_gpus_is_chosen() -> None:
    gpus = [GpuStatus(uuid="GPU-1", index=1), GpuStatus(uuid="GPU-0", index=0)]
    assert choose_gpus(StatusReply(gpus=gpus), None) == ("GPU-0",)
