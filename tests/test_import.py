"""What importing the library does to a process: little."""

import json
import os
import subprocess
import sys

import pytest

PROBE = """
import json, sys
import {module}
from jax._src import xla_bridge
print(json.dumps({{"modules": sorted({{name.partition(".")[0] for name in sys.modules}}),
                   "devices": xla_bridge.backends_are_initialized()}}))
"""


def imported(module, folder):
    """Top-level modules in a fresh process after `import module`, whether it opened a device, and what it printed."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "MPL"))}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder), "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *printed, report = done.stdout.splitlines()
    return json.loads(report), printed + done.stderr.splitlines()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("polopt_jax", {"brax", "mujoco", "flax", "orbax", "matplotlib", "tyro", "rich"}),
        ("polopt_jax.export", {"brax", "mujoco", "flax", "orbax", "matplotlib", "tyro", "rich"}),
        ("polopt_jax.networks", {"brax", "mujoco", "matplotlib", "tyro"}),
    ],
)
def test_import_is_light_and_silent(tmp_path, module, absent):
    report, printed = imported(module, tmp_path)
    assert not absent & set(report["modules"])
    assert not report["devices"], "the import opened a device"
    assert not printed
    assert not list(tmp_path.iterdir()), "the import wrote files"
