"""What a wrong command line gets: one clear line on stderr and a non-zero status."""

from pathlib import Path

import pytest

from nvshare.cli.main import main


@pytest.fixture(autouse=True)
def no_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that run on this machine are none of these tests' business."""
    monkeypatch.setenv("NVSHARE_NODE_DIR", str(folder / "none"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "nonsense"),
        (["up", "--nonsense"], "--nonsense"),
        (["up", "--emulate", "0"], "--emulate 0"),
        (["up", "--emulate", "99"], "1 to 16"),
        (["up", "--emulate", "1", "--gpu-memory", "lots"], "--gpu-memory: 'lots'"),
        (["up", "--emulate", "1", "--mode", "fast"], "auto, serial, concurrent, off"),
        (["up", "--emulate", "1", "--time-sharing", "fair"], "auto, driver, slices, slots"),
        (["up", "--emulate", "1", "--quantum", "-3"], "--quantum -3"),
        (["up", "--emulate", "1", "--quantum", "soon"], "--quantum soon: give auto, or seconds"),
        (["up", "--emulate", "1", "--quantum", "nan"], "--quantum nan"),
        (["up", "--emulate", "1", "--max-wait", "0"], "--max-wait 0"),
        (["up", "--emulate", "1", "--overcommit", "0.5"], "--overcommit 0.5"),
        (["up", "--emulate", "1", "--host-memory", "none"], "--host-memory: 'none'"),
        (["run", "--host-memory", "there", "--", "true"], "--host-memory there: give own"),
        (["quantum", "0", "soon"], "quantum soon: give auto, or seconds"),
        (["quantum", "0", "5", "--max-wait", "nan"], "--max-wait nan"),
        (["quantum", "0", "auto"], "no node runs"),
        (["run"], "CMD"),
        (["run", "--memory", "4X", "--", "true"], "--memory: '4X'"),
        (["run", "--cores", "500", "--", "true"], "--cores 500: give a percentage from 1 to 100"),
        (["run", "--weight", "-1", "--", "true"], "--weight -1: give a whole number from 1 to 1000"),
        (["run", "--priority", "high", "--", "true"], "best-effort, normal, latency-critical"),
        (["run", "--burst", "--", "true"], "--burst is about the limit of --cores"),
        (["quota", "set", "training"], "nothing to change: give --memory, --cores"),
        (["quota", "set", "training", "--cores", "abc"], "--cores abc: give a percentage from 1 to 100, or none"),
        (["status"], "no node runs; start one with `nvshare up`"),
        (["mode", "0", "serial"], "no node runs"),
        (["mode", "0", "sometimes"], "no mode 'sometimes'"),
        (["bench"], "--list"),
        (["bench", "solo-huge"], "solo-small"),
        (["bench", "solo-small", "--seconds", "0"], "--seconds 0"),
        (["bench", "solo-small", "--time-sharing", "fair"], "auto, driver, slices, slots"),
        (["bench", "grant-latency", "--clients", "1"], "clients"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_nonzero_status(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("nvshare: ")
    assert words in captured.err


def test_without_a_gpu_up_says_that_there_is_an_emulated_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_real_gpus(monkeypatch)
    assert main(["up"]) == 1
    assert "no NVIDIA GPU found" in (error := capsys.readouterr().err)
    assert "--emulate 1" in error


def test_without_a_gpu_run_says_that_it_needs_emulate(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_real_gpus(monkeypatch)
    assert main(["run", "--", "true"]) == 1
    assert "--emulate" in capfd.readouterr().err


def test_a_missing_program_is_said_before_a_node_is_started(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["run", "--emulate", "--", "no-such-program"]) == 127
    assert capsys.readouterr().err == "nvshare: command not found: no-such-program\n"
    assert not (folder / "none").exists()


def test_a_folder_too_deep_for_sockets_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["up", "--emulate", "1", "--node-dir", str(tmp_path / ("deep" * 25))]) == 1
    assert "shorter --node-dir" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "file").touch()
    assert main(["up", "--emulate", "1", "--node-dir", str(folder / "file" / "node")]) == 1
    assert "choose another folder with --node-dir" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "run", "status", "mode", "quantum", "bench", "demo"])
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"nvshare {command}" in capsys.readouterr().out.replace("Usage: nvshare", "", 1)


def test_version_names_version_build_and_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert "protocol 1" in capsys.readouterr().out


def test_bench_lists_its_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == {
        "small", "large", "idle-small",
        "solo-large", "solo-small", "pair-small", "pair-large-serial", "pair-large-auto", "quad-large-auto",
        "trio-small-fit", "trio-idle", "survivor", "grow-after-admission", "swap-speed", "memory-quota",
        "pair-small-auto", "quad-small-auto", "weights", "busy-plus-bursty", "priority", "paused", "policies",
        "quota-solo", "quota-pairs", "quota-two-gpus", "quota-live", "gang-pair", "two-gpus", "launch-overhead",
        "grant-latency", "demo",
    }  # fmt: skip


@pytest.mark.parametrize("cores", ["0", "101", "-1", "abc", "10,,20"])
def test_percentages_out_of_bounds_are_refused_with_what_is_allowed(
    cores: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "quota-solo", "--emulate", "--cores", cores]) == 2
    assert "percentages from 1 to 100" in capsys.readouterr().err


@pytest.mark.parametrize("work", ["", "huge", "plain,huge", "plain,"])
def test_kinds_of_work_that_there_are_not_are_refused_with_those_that_there_are(
    work: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "quota-solo", "--emulate", "--work", work]) == 2
    assert "plain,graphs,long,training,sync,tiny" in capsys.readouterr().err


def test_bursts_that_there_are_not_are_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "priority", "paused", "--emulate", "--bursts", "light,never"]) == 2
    assert "light,heavy,gaps" in capsys.readouterr().err


def hide_real_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a machine with a GPU look like one without: NVML is not found."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nonexistent")
    monkeypatch.setattr("pynvml.nvmlInit", _no_nvml)


def _no_nvml() -> None:
    import pynvml

    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
