"""What every test run needs before JAX is imported, and two fixtures for stricter or wider arithmetic."""

import os
from pathlib import Path

# Most of the time of these tests is spent on compiling small programs, so the compiler is asked for quick code rather
# than fast code (XLA's own passes stay; `XLA_FLAGS= make test` tests what a user gets), and what was compiled is kept.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax
import pytest

# No deadline, because the first example compiles; derandomized, so that a failure is the same one everywhere.
# A configuration fixture holds for all examples of a test, so a function-scoped fixture is right for it.
hypothesis.settings.register_profile(
    "polopt",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("polopt")


@pytest.fixture
def strict():
    """Implicit rank promotion and implicit dtype promotion are errors."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64():
    """Arrays default to 64 bits."""
    with jax.enable_x64(True):
        yield
