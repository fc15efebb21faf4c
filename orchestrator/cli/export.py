"""Settlements as files for other programs."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import click

from orchestrator.client.types import SettlementRecord

COLUMNS = tuple(field.name for field in dataclasses.fields(SettlementRecord))
BATCH_ROWS = 10_000
# A cell that begins like this is a formula to a spreadsheet.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(rows: Iterable[SettlementRecord], to: Path | None) -> int:
    """Write rows with a header; returns how many."""
    if to is None:
        return _write(rows, sys.stdout)
    with to.open("w", newline="") as stream:
        return _write(rows, stream)


def _write(rows: Iterable[SettlementRecord], stream: TextIO) -> int:
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    count = 0
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
        count += 1
    return count


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write_parquet(rows: Iterable[SettlementRecord], to: Path) -> int:
    """Write rows as parquet, some thousands at a time; returns how many.

    Raises:
        ClickException: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise click.ClickException("parquet needs pyarrow: pip install 'edgewise[parquet]'") from error
    kinds = {"str": arrow.string(), "float": arrow.float64(), "float | None": arrow.float64(), "int": arrow.int64()}
    schema = arrow.schema([(field.name, kinds[str(field.type)]) for field in dataclasses.fields(SettlementRecord)])
    count, left = 0, iter(rows)
    with parquet.ParquetWriter(to, schema) as writer:
        while batch := [dataclasses.asdict(row) for row in itertools.islice(left, BATCH_ROWS)]:
            writer.write_table(arrow.Table.from_pylist(batch, schema))
            count += len(batch)
    return count
