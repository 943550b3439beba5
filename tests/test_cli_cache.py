"""Compiled programs are kept where the user wants them, told once, and not at all where they do not."""

import os
import re
import subprocess
import sys

import jax
import pytest

from polopt_jax.cli import _cache, _main, _versions, main
from polopt_jax.cli._words import UsageError


@pytest.fixture(autouse=True)
def settings_restored(monkeypatch, tmp_path):
    """No variable says anything, the home is empty, and JAX's settings come back."""
    for name in _cache.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_is_told_once(capsys, tmp_path):
    _cache.use_cache(["train"])
    said = capsys.readouterr().err
    assert str(_cache.folder()) in said
    assert "--no-cache" in said
    assert _cache.folder().is_relative_to(tmp_path / "cache" / "polopt_jax")
    assert _cache.folder().is_dir()
    assert jax.config.jax_compilation_cache_dir == str(_cache.folder())
    assert jax.config.jax_compilation_cache_max_size == 2 * 1024**3
    _cache.use_cache(["train"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
def test_a_variable_is_respected(name, monkeypatch, tmp_path):
    monkeypatch.setenv(name, "")
    _cache.use_cache(["train"])
    assert jax.config.jax_compilation_cache_dir is None
    assert not (tmp_path / "cache").exists()


def test_the_switch_keeps_nothing(tmp_path):
    _cache.use_cache(["train", "--no-cache"])
    assert jax.config.jax_compilation_cache_dir is None
    assert not (tmp_path / "cache").exists()


def test_without_a_folder_that_can_be_made_all_goes_on(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _cache.use_cache(["train"])
    assert jax.config.jax_compilation_cache_dir is None


def test_another_processor_or_compiler_has_another_folder(monkeypatch):
    here = _cache.folder()
    monkeypatch.setattr(_cache, "processor", lambda *names: "other")
    assert _cache.folder() != here
    monkeypatch.undo()
    monkeypatch.setattr(_cache.version, "__version__", "0.0.1")
    assert _cache.folder().name != here.name


def test_a_processor_is_what_linux_says_of_the_first_or_what_python_does(monkeypatch, tmp_path):
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(_versions, "CPUINFO", told)
    monkeypatch.setattr(_versions.platform, "processor", lambda: "arm")
    assert _versions.processor("model name") == "arm"
    told.write_text(
        "processor\t: 0\nmodel name\t: A Chip: 9\nflags\t\t: a b\n\nprocessor\t: 1\nmodel name\t: another\n"
    )
    assert _versions.processor("model name") == "A Chip: 9"
    assert _versions.processor("flags", "Features") == "a b"
    assert _versions.processor("Features") == "arm"


def test_the_folder_is_below_home_where_nothing_else_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _cache.folder().is_relative_to(tmp_path / ".cache" / "polopt_jax")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "ppo", "--env", "ant"],
        ["compare"],
        ["evaluate", "somewhere"],
        ["outcomes"],
        ["study"],
    ],
)
def test_every_command_that_compiles_asks_for_it_and_takes_the_switch(words, monkeypatch):
    asked = []

    def refuse(arguments):
        asked.append(arguments)
        raise UsageError("that is enough")

    monkeypatch.setattr(_main, "use_cache", refuse)
    for line in (words, [*words, "--no-cache"], ["--no-cache", *words]):
        assert main(line) == 2
    assert asked == [words, [*words, "--no-cache"], ["--no-cache", *words]]


def test_what_is_wrong_makes_no_folder(tmp_path, capsys):
    assert main(["train", "ppo", "--env", "nowhere"]) == 2
    assert main(["train", "ppo", "--help"]) == 0
    assert not (tmp_path / "cache").exists()


def test_a_second_process_reads_what_the_first_compiled(tmp_path):
    program = (
        "import jax, jax.numpy as jnp\n"
        "from polopt_jax.cli import _cache\n"
        "_cache.WORTH = 0.0\n"
        "_cache.use_cache([])\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))\n"
        "jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()\n"
        "print(sum('cache_hits' in name for name in hits))\n"
    )
    environ = {name: x for name, x in os.environ.items() if name not in _cache.VARIABLES}
    found = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ, timeout=120)
        for _ in range(2)
    ]
    assert [run.returncode for run in found] == [0, 0]
    hits = [int(re.findall(r"\d+", run.stdout)[-1]) for run in found]
    assert hits[0] == 0
    assert hits[1] > 0
