"""Tensors, energy and their kin as they travel: our types to `edgewise.v1`'s common messages and back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgewise.v1 import common_pb2 as common
from nodes.arms import Tensors, TensorSpec
from nodes.energy.contract import EnergyReading, Provenance

DTYPES = {
    "bool": common.DTYPE_BOOL,
    "uint8": common.DTYPE_UINT8,
    "int8": common.DTYPE_INT8,
    "int32": common.DTYPE_INT32,
    "int64": common.DTYPE_INT64,
    "float16": common.DTYPE_FLOAT16,
    "float32": common.DTYPE_FLOAT32,
    "float64": common.DTYPE_FLOAT64,
}
_DTYPE_NUMBERS = {np.dtype(name).newbyteorder("<"): number for name, number in DTYPES.items()}
DTYPE_NAMES = {number: name for name, number in DTYPES.items()}
PROVENANCES = {
    Provenance.MEASURED: common.PROVENANCE_MEASURED,
    Provenance.REPLAYED: common.PROVENANCE_REPLAYED,
    Provenance.MODELLED: common.PROVENANCE_MODELLED,
    Provenance.UNMEASURED: common.PROVENANCE_UNMEASURED,
}


def tensor_spec(spec: TensorSpec | None) -> common.TensorSpec | None:
    """What an expert accepts or returns; None stays unset."""
    if spec is None:
        return None
    return common.TensorSpec(name=spec.name, dtype=DTYPES[spec.dtype], shape=spec.shape)


def energy(reading: EnergyReading) -> common.Energy:
    """Joules with their provenance."""
    # Unknown joules travel as 0 with provenance UNMEASURED, which the wire defines as "never read it as zero".
    return common.Energy(
        energy_j=reading.energy_j or 0.0,
        provenance=PROVENANCES[reading.provenance],
        method=reading.method,
        uncertainty_j=reading.uncertainty_j,
        idle_j=reading.idle_j,
        share=reading.share,
        stages=[common.StageEnergy(stage=stage, energy_j=energy_j) for stage, energy_j in reading.stages_j],
        preliminary=not reading.final,
    )


def tensor_messages(tensors: Tensors) -> Iterable[common.Tensor]:
    """Row-major, little-endian."""
    for name, array in tensors.items():
        number = _DTYPE_NUMBERS.get(array.dtype)
        if number is None:
            array = array.astype(array.dtype.newbyteorder("<"))
            number = _DTYPE_NUMBERS[array.dtype]
        yield common.Tensor(name=name, dtype=number, shape=array.shape, data=array.tobytes())
