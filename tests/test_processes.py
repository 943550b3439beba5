"""A run of two processes on this machine: what a cluster does, but for its size.

Each process is `polopt train` in an interpreter of its own, joined to the other over loopback. The environment is a
probe, so that nearly all of their time is JAX's own start and one small compilation.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from polopt_jax import checkpoint, processes
from polopt_jax.cli import main
from polopt_jax.cli._devices import kept_flags

RUN = "train actor_critic --env polopt_jax.envs:DelayedReward --num-envs 8 --rollout-steps 4 --hidden 4 --seed 3"
SHORT, LONG = [*RUN.split(), "--steps", "192"], [*RUN.split(), "--steps", "384"]
ENDLESS = [*RUN.split(), "--steps", "320000"]
ENVIRON = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}
SECONDS = 150


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def launched(*words, directory, number=2, present=(0, 1), before=""):
    """The processes of a run; what is left of them at the end is killed."""
    address = f"127.0.0.1:{free_port()}"
    code = f"import sys\nfrom polopt_jax import processes\n{before}\nfrom polopt_jax.cli import main\nsys.exit(main())"
    started = []
    try:
        for index in present:
            where = ["--coordinator", address, "--num-processes", str(number), "--process-id", str(index)]
            line = [sys.executable, "-c", code, *words, "--out", str(directory), *where]
            started.append(
                subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRON)
            )
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def ended(started):
    """`(exit code, stdout, stderr)` of each."""
    said = [process.communicate(timeout=SECONDS) for process in started]
    return [(process.returncode, *told) for process, told in zip(started, said, strict=True)]


def run_two(*words, directory):
    with launched(*words, directory=directory) as started:
        found = ended(started)
    assert [code for code, *_ in found] == [0, 0], found
    return found


def wait_for(happened, started):
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        assert all(process.poll() is None for process in started), ended(started)
        time.sleep(0.05)


def updates(directory):
    return [json.loads(line)["update"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def saved(directory):
    """Parameters and counters of the newest checkpoint, and of the environments what every process has a part of."""
    store = directory / "checkpoints"
    step = checkpoint.latest_step(store)
    manifest = checkpoint._read_manifest(store, step)
    return {name: x.astype(float) for name, x in checkpoint._read_leaves(store, step, manifest).items()}


def check_same(one, other):
    assert one.keys() == other.keys()
    assert any(".params" in name for name in one)
    for name, x in one.items():
        np.testing.assert_allclose(x, other[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of six updates, and what it saved, in one process on one device."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    assert main([*SHORT, "--out", str(directory)]) == 0
    return directory, saved(directory)


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_do_the_run_of_one_and_the_first_keeps_it(tmp_path, alone, each):
    """Also where each brings two devices, as machines with several accelerators do."""
    words = [*SHORT, "--json", "--devices", str(each)]
    (_, out, told), (_, silent, other) = run_two(*words, directory=tmp_path / "run")
    assert json.loads(out)["results"][0]["status"] == "finished"
    assert f"on {2 * each} devices" in told
    assert "polopt" not in other
    assert silent == ""
    assert updates(tmp_path / "run") == updates(alone[0])
    check_same(saved(tmp_path / "run"), alone[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_with_one_process_and_with_two_devices_and_with_two_processes(tmp_path):
    whole = tmp_path / "whole"
    assert main([*LONG, "--out", str(whole)]) == 0
    more = ["--resume", "--steps", "384"]
    for name in ("one", "devices", "two"):
        directory = tmp_path / name
        run_two(*SHORT, directory=directory)
        if name == "two":
            run_two("train", *more, directory=directory)
        else:
            devices = ["--devices", "2"] if name == "devices" else []
            line = [sys.executable, "-m", "polopt_jax", "train", "--out", str(directory), *more, *devices]
            done = subprocess.run(line, capture_output=True, text=True, env=ENVIRON, timeout=SECONDS, check=False)
            assert done.returncode == 0, done.stderr
        assert updates(directory) == updates(whole)
        check_same(saved(directory), saved(whole))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_leaves_a_checkpoint_and_a_message(tmp_path, victim):
    directory = tmp_path / "run"
    with launched(*ENDLESS, directory=directory) as started:
        wait_for(lambda: (checkpoint.latest_step(directory / "checkpoints") or 0) > 0, started)
        started[victim].kill()
        code, _, told = ended(started)[1 - victim]
    last = told.strip().splitlines()[-1]
    step = checkpoint.latest_step(directory / "checkpoints")
    assert code == processes.LOST, told
    assert last.startswith(f"polopt: process {1 - victim} of 2: error: it has lost its peers;")
    assert f"the checkpoint of update {step} is good; go on, in every process, with: polopt train --out" in last
    assert "--resume --coordinator 127.0.0.1:" in last
    assert f"--process-id {1 - victim}" in last
    assert checkpoint.check(directory / "checkpoints") == step


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_signal_to_one_process_stops_all_at_the_same_chunk(tmp_path):
    directory = tmp_path / "run"
    with launched(*ENDLESS, directory=directory) as started:
        wait_for(lambda: (directory / "metrics.jsonl").exists() and updates(directory), started)
        started[1].send_signal(signal.SIGTERM)
        found = ended(started)
    assert [code for code, *_ in found] == [143, 143], found
    step = checkpoint.latest_step(directory / "checkpoints")
    assert updates(directory)[-1] == step
    assert all(f"interrupted, saved at update {step}" in told for *_, told in found)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("present", "said"), [((0,), "were all of them started"), ((1,), "process 0 does not answer at 127.0.0.1:")]
)
def test_a_peer_that_does_not_come_is_told_in_time(tmp_path, present, said):
    with launched(*SHORT, directory=tmp_path / "run", present=present, before="processes.WAIT = 3.0") as started:
        ((code, _, told),) = ended(started)
    assert code == processes.LOST
    assert told.splitlines() == [told.strip()]
    assert "not all processes came within 3 seconds" in told
    assert said in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_the_first_process_may_not_do_ends_all_with_its_reason(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note").write_text("mine")
    with launched(*SHORT, directory=tmp_path / "run") as started:
        found = ended(started)
    assert [code for code, *_ in found] == [2, 2]
    assert "process 1 of 2: error: process 0:" in found[1][2]
    assert all("is not empty" in told for *_, told in found)
    assert os.listdir(tmp_path / "run") == ["note"]


# --- in this process ----------------------------------------------------------------------------------------------


def refused(capsys, *words):
    assert main([*SHORT, *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "0"), "--devices must be from 1 to 4,096; it is 0"),
        (("--devices", "4000"), "--devices: num_devices must be in 1 .."),
        (("--num-processes", "2"), "need --coordinator HOST:PORT"),
        (("--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"), "the last is 1; it is 2"),
        (("--coordinator", "here"), "--coordinator must be HOST:PORT, or auto; it is 'here'"),
    ],
)
def test_what_cannot_be_spread_is_refused(capsys, tmp_path, words, said):
    assert said in refused(capsys, *words, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_environments_that_devices_do_not_divide_are_refused_by_the_flag(capsys, tmp_path):
    line = [sys.executable, "-m", "polopt_jax", *SHORT, "--devices", "3", "--out", str(tmp_path / "run")]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRON, timeout=SECONDS, check=False)
    said = "polopt: error: --num-envs 8 cannot be split evenly over 3 devices; change one of them\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_what_learns_from_pairs_drawn_once_is_refused(capsys, tmp_path):
    words = ["train", "dpo", "--env", "skip_the_test", "--devices", "2", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "dpo learns from pairs that are drawn once, in one process on one device" in capsys.readouterr().err


def test_only_a_loss_of_peers_ends_a_process():
    with pytest.raises(ValueError, match="Connection closed"), processes.lost(lambda: None):
        raise ValueError("Connection closed by peer")  # of a single process, which has none


def test_the_command_that_goes_on_keeps_what_a_run_is_spread_over():
    words = ["train", "ppo", "--coordinator", "a:1", "--env", "x", "--num_processes=2", "--process-id", "1"]
    assert kept_flags(words) == ["--coordinator", "a:1", "--num_processes=2", "--process-id", "1"]
