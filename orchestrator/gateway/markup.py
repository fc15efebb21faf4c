"""Tables of HTML out of plain values. Every value is escaped here and nowhere else: there is no way past it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# What nodes call themselves is bounded, what they say of their devices is not.
MAX_CELL_CHARS = 120


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Args:
        text: Shown.
        note: Shown below, smaller.
        mood: "good", "warn", "bad" or "" for neither.
    """

    text: str
    note: str = ""
    mood: str = ""


@dataclass(frozen=True)
class Column:
    """A heading; numbers stand to the right."""

    name: str
    number: bool = False


def safe(text: str) -> str:
    """Text as it may stand anywhere in a page: escaped, without control characters, cut where it is too long."""
    shown = text if len(text) <= MAX_CELL_CHARS else f"{text[: MAX_CELL_CHARS - 1]}…"
    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown))


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, none: str) -> str:
    """A table, or the words that say that there is nothing to show."""
    if not rows:
        return f'<p class="none">{safe(none)}</p>'
    head = "".join(f'<th scope="col"{_class(column)}>{safe(column.name)}</th>' for column in columns)
    body = "".join(f"<tr>{_row(columns, row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _row(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    return "".join(_cell(column, cell) for column, cell in zip(columns, row, strict=True))


def _cell(column: Column, cell: Cell) -> str:
    note = f"<small>{safe(cell.note)}</small>" if cell.note else ""
    return f"<td{_class(column, cell.mood)}>{safe(cell.text)}{note}</td>"


def _class(column: Column, mood: str = "") -> str:
    names = " ".join(name for name in ("number" if column.number else "", mood) if name)
    return f' class="{names}"' if names else ""


def tiles(entries: Sequence[tuple[str, str]]) -> str:
    """Name and value, side by side."""
    return "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in entries)
