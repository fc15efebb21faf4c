"""Rows of csv, jsonl and parquet files as columns; nothing is interpreted here beyond text and numbers."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import ExitCode
from orchestrator.study.errors import StudyError

Columns = Mapping[str, list[Any]]

# A prompt may be long; csv's own limit of 128 KiB would refuse it.
_MAX_FIELD = 1 << 27


def read_columns(path: Path, wanted: Iterable[str]) -> Columns:
    """Read some columns of a file, by the end of its name; others are ignored, absent ones are absent.

    Args:
        path: A .csv, .jsonl (one object per line), .json (a list of objects) or .parquet file.
        wanted: Names of the columns.

    Raises:
        StudyError: Not there, not readable, not of a known kind, or not what its name says.
    """
    readers: dict[str, Callable[[Path, list[str]], Columns]] = {
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise StudyError(f"{path.name}: unknown kind of file", f"give a file that ends in {', '.join(readers)}")
    if not path.is_file():
        raise StudyError(f"{path}: no such file", "check the path", what="file not found", exit_code=ExitCode.NOT_FOUND)
    try:
        return reader(path, [*wanted])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path.name}: {_words(error)}", "write it again, as UTF-8 text") from error


def number_at(path: Path, row: int, name: str, value: Any, *, what: str) -> float:
    """A cell as a number.

    Raises:
        StudyError: It is none, or below 0; names row and column.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number < math.inf:
        why = f"{path.name}: row {row + 1}, column {name} is {value!r}"
        raise StudyError(why, "give a number of at least 0", what=what)
    return number


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or "cannot be read").lower()
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)


def _read_csv(path: Path, wanted: list[str]) -> Columns:
    csv.field_size_limit(_MAX_FIELD)
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        names = [name for name in wanted if name in (reader.fieldnames or ())]
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for row in reader:
            for name in names:
                columns[name].append(row[name])
    return columns


def _read_jsonl(path: Path, wanted: list[str]) -> Columns:
    rows = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                rows.append(_parsed(line, path, f"line {number}"))
    return _of_objects(rows, wanted, path)


def _read_json(path: Path, wanted: list[str]) -> Columns:
    document = _parsed(path.read_text(encoding="utf-8-sig"), path, "it")
    if isinstance(document, dict):
        document = next((value for value in document.values() if isinstance(value, list)), None)
    if not isinstance(document, list):
        raise StudyError(f"{path.name}: it does not hold a list of objects", "write [{...}, {...}]")
    return _of_objects(document, wanted, path)


def _parsed(text: str, path: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path.name}: {where} is not valid JSON", "repair it, or write the file again") from error


def _of_objects(rows: list[Any], wanted: list[str], path: Path) -> Columns:
    if not all(isinstance(row, dict) for row in rows):
        raise StudyError(f"{path.name}: every row must be a JSON object", 'write {"prompt_id": ..., "model": ...}')
    names = [name for name in wanted if any(name in row for row in rows)]
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path, wanted: list[str]) -> Columns:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        cure = "pip install 'edgewise[study]', or write the table as .csv or .jsonl"
        raise StudyError(f"{path.name}: parquet files need pyarrow", cure, what="not installed") from error
    try:
        file = pq.ParquetFile(path)
        table = file.read(columns=[name for name in wanted if name in file.schema_arrow.names])
    except pa.ArrowException as error:
        raise StudyError(f"{path.name}: it is not a parquet file", "check how it was written") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}
