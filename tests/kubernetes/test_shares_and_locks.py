"""Pods with shares of several GPUs beside pods with a share of one, by the cards' own account."""

import asyncio
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from whole_cluster import WholeCluster, whole_cluster

pytestmark = pytest.mark.heavy

QUANTUM_SECONDS = 0.5
SECONDS = 5.0
PODS = {"both": 2, "one": 1, "other": 1}
LOOK_AT_TURNS = """
import json, sys
from nvshare.emulator.account import turns
print(json.dumps([turn.pid for turn in turns(int(sys.argv[1]))]))
"""


@pytest.mark.timeout(120)
async def test_a3_a_pod_on_two_gpus_takes_turns_on_each_with_the_pod_that_has_a_share_of_it(short_folder: Path) -> None:
    async with whole_cluster(short_folder, NVSHARE_MODE="serial", NVSHARE_QUANTUM=str(QUANTUM_SECONDS)) as cluster:
        uids = {name: await compute(cluster, name, shares) for name, shares in PODS.items()}
        async with asyncio.timeout(60):
            while {await cluster.phase(name) for name in PODS} != {"Succeeded"}:
                await asyncio.sleep(0.1)
        answers = {name: answer_of(cluster, uid) for name, uid in uids.items()}
        assert all(answer["correct"] for answer in answers.values()), answers
        assert answers["one"]["gpus"] != answers["other"]["gpus"], "the two single shares are on two cards"
        assert sorted(answers["both"]["gpus"]) == sorted(answers["one"]["gpus"] + answers["other"]["gpus"])
        for card in ("0", "1"):
            holders = [pid for pid, _ in groupby(await cluster.look(LOOK_AT_TURNS, card))]
            assert len(set(holders)) == 2, f"card {card} was for the pod on both and one other"
            # Programs that were not kept apart would change places with each kernel, hundreds of times.
            most = 2 * (2 * SECONDS / QUANTUM_SECONDS)
            assert 3 <= len(holders) <= most, f"card {card} was held for a quantum at a time"


async def compute(cluster: WholeCluster, name: str, shares: int) -> str:
    """A pod that computes on as many cards as it has shares of."""
    words = f"-m nvshare.cli.workloads.emulated --name {name} --gpus {shares} --seconds {SECONDS}"
    return await cluster.run_pod(name, [*words.split(), "--memory-bytes=67108864", "--kernel-ns=5000000"], None, shares)


def answer_of(cluster: WholeCluster, uid: str) -> dict[str, Any]:
    """What the pod's program said at its end."""
    answer: dict[str, Any] = json.loads(cluster.output(uid).splitlines()[-1])
    return answer
