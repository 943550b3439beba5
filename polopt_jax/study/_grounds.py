"""The worlds of the study."""

from collections.abc import Mapping

from polopt_jax.study._building import building
from polopt_jax.study._ground import Ground
from polopt_jax.study._told import told

WIDTHS = (8, 32, 128)

GROUNDS: Mapping[str, Ground] = {
    ground.name: ground
    for ground in (
        building("burning-building", "mother is out; the building explodes, the vase breaks", WIDTHS),
        building(
            "burning-building-hazard",
            "the same, from a reference that likes the valve",
            WIDTHS,
            valve=-1.0,
            bias=0.3,
        ),
        told(WIDTHS),
    )
}
