"""Write the arms of the public tables: active parameters × one constant for joules, one for milliseconds.

Run as ``EDGEWISE_EVAL_DATA=FOLDER python -m tests.bench.routing_arms``; it writes ``data/arms_<table>.csv``, which are
committed so that every policy of a table is charged by the same figures. All of them are *modelled*: the constants are
medians over public measurements of single requests (batch 1) on devices that people own, of joules (or milliseconds)
per output token and billion parameters; reading the prompt and idling are not in them. Models of unknown size (the
closed ones) get no arm.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.bench.harness import evaluation_data

TABLES = ("llmrouter_uiuc", "routerdc_7b", "zeroeval", "openllm_v2")
ARMS = Path(__file__).parent / "data"
_OWNED = {"edge", "desktop", "SBC", "jetson", "laptop", "mac"}
# Bytes of a parameter in a 4-bit file with its scales.
_BYTES_PER_PARAMETER = 0.56


def arms_file(table: str) -> Path:
    """Where the arms of a table are."""
    return ARMS / f"arms_{table}.csv"


def _measured(data: Path) -> Iterator[dict[str, str]]:
    with (data / "llm_edge_energy" / "llm_device_speed_energy.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["batch"] == "1.0" and row["device_class"] in _OWNED and row["params_b"]:
                yield row


def joules_per_billion_token(data: Path) -> tuple[float, int]:
    """Median joules per output token and billion parameters, and of how many rows."""
    found = [
        float(row["energy_j_per_output_token"]) / float(row["params_b"])
        for row in _measured(data)
        if row["energy_j_per_output_token"]
    ]
    return statistics.median(found), len(found)


def ms_per_billion_token(data: Path) -> tuple[float, int]:
    """Median milliseconds per output token and billion parameters, and of how many rows."""
    found = [1000.0 / float(row["decode_tps"]) / float(row["params_b"]) for row in _measured(data) if row["decode_tps"]]
    return statistics.median(found), len(found)


def write_arms(data: Path, table: str) -> None:
    """Write the arms of one table."""
    joules, _ = joules_per_billion_token(data)
    ms, _ = ms_per_billion_token(data)
    with (data / "llm_quality" / "models.csv").open(newline="") as stream:
        models = [row for row in csv.DictReader(stream) if row["source"] == table and row["active_params_b"]]
    with arms_file(table).open("w", newline="") as stream:
        out = csv.writer(stream, lineterminator="\n")
        out.writerow(
            ("model", "node", "ms_base", "ms_per_output_token", "j_base", "j_per_output_token", "memory_bytes")
        )
        for row in models:
            active = float(row["active_params_b"])
            memory = int(float(row["params_b"]) * 1e9 * _BYTES_PER_PARAMETER)
            out.writerow((row["model"], "modelled", 0, f"{active * ms:.5g}", 0, f"{active * joules:.5g}", memory))


if __name__ == "__main__":
    FOLDER = evaluation_data()
    print(f"{joules_per_billion_token(FOLDER)} J, {ms_per_billion_token(FOLDER)} ms per billion parameters and token")
    for name in TABLES:
        write_arms(FOLDER, name)
