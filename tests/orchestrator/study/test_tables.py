"""Tables of strangers: what can be meant is read, what cannot is refused with the place and the cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ExitCode
from orchestrator.study.arms import Arm, cheapest_arms, read_arms
from orchestrator.study.errors import StudyError
from orchestrator.study.tables import join_arms, read_traffic
from orchestrator.study.tokens import OTHERWISE, fill_tokens, tokens_of

ROWS: list[dict[str, Any]] = [
    {"prompt_id": p, "prompt": f"text {p}", "task": "t", "model": m, "quality": q, "extra": 1}
    for p, m, q in ((1, "a", 1.0), (1, "b", 0.25), (2, "a", 0), (2, "b", 0.5), (3, "a", 1))
]
HEADER = "model,node,ms_base,ms_per_output_token,j_base,j_per_output_token,memory_bytes\n"


def quiet(_text: str) -> None:
    return


def write_table(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl") -> Path:
    path = folder / f"table.{kind}"
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = pa.table({name: [row.get(name) for row in rows] for name in rows[0]})
        for name in ("prompt", "task", "model"):
            place = table.column_names.index(name)
            table = table.set_column(place, name, table.column(name).dictionary_encode())
        pq.write_table(table, path)
    elif kind == "csv":
        names = list(rows[0])
        lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def write_arms(folder: Path, *lines: str) -> Path:
    path = folder / "arms.csv"
    path.write_text(HEADER + "\n".join(lines))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_what_answers_say_of_themselves_is_read_beside_them(tmp_path: Path, kind: str) -> None:
    said = {"confidence": 0.5, "agreement": "", "answer": "42.", "output_tokens_estimate": 7}
    rows = [{**row, **said} for row in ROWS]
    rows[1] |= {"confidence": "", "answer": ' "42"'} if kind == "csv" else {"confidence": None, "answer": ' "42"'}
    traffic = read_traffic(write_table(tmp_path, rows if kind != "parquet" else _typed(rows), kind), note=quiet)
    assert set(traffic.signals) == {"confidence"}
    np.testing.assert_array_equal(traffic.signals["confidence"], [[0.5, np.nan], [0.5, 0.5], [0.5, np.nan]])
    assert traffic.answers_qm is not None
    # The same answer in other words of the same meaning: quotes, spaces and a full stop do not count.
    assert traffic.answers_qm[0, 0] == traffic.answers_qm[0, 1] >= 0
    assert traffic.answers_qm[2, 1] == -1
    table = join_arms(traffic, [Arm("a", "", 1, 0, 1, 0, 0), Arm("b", "", 1, 0, 1, 0, 0)], note=quiet)
    assert set(table.signals) == {"confidence", "length"}
    assert table.answers_qm is not None


def _typed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "agreement": None} for row in rows]


def test_a_confidence_that_is_none_is_refused_with_its_row(tmp_path: Path) -> None:
    rows = [{**row, "confidence": 0.5} for row in ROWS]
    rows[3]["confidence"] = 1.5
    with pytest.raises(StudyError, match=r"row 4, column confidence is 1\.5"):
        read_traffic(write_table(tmp_path, rows), note=quiet)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_says_the_same(tmp_path: Path, kind: str) -> None:
    traffic = read_traffic(write_table(tmp_path, ROWS, kind), note=quiet)
    assert traffic.models == ("a", "b")
    assert traffic.texts == ("text 1", "text 2", "text 3")
    np.testing.assert_array_equal(traffic.quality_qm, [[1.0, 0.25], [0.0, 0.5], [1.0, np.nan]])


def test_doubled_rows_count_with_their_mean_and_are_told(tmp_path: Path) -> None:
    notes: list[str] = []
    traffic = read_traffic(write_table(tmp_path, [*ROWS, {**ROWS[0], "quality": 0.5}]), note=notes.append)
    assert traffic.quality_qm[0, 0] == 0.75
    assert "1 rows repeat" in notes[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quality": float("nan")}, "row 2, column quality is nan"),
        ({"quality": None}, "row 2, column quality is None"),
        ({"quality": 1.5}, "row 2, column quality is 1.5"),
        ({"quality": "good"}, "row 2, column quality is 'good'"),
        ({"model": ""}, "row 2, column model is empty"),
        ({"prompt_id": None}, "row 2, column prompt_id is empty"),
        ({"output_tokens_estimate": -4}, "row 2, column output_tokens_estimate is -4"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    rows = [ROWS[0], {**ROWS[1], **change}, *ROWS[2:]]
    with pytest.raises(StudyError) as caught:
        read_traffic(write_table(tmp_path, rows), note=quiet)
    assert told in caught.value.why
    assert caught.value.cure


@pytest.mark.parametrize("column", ["prompt_id", "prompt", "model", "quality"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    rows = [{name: value for name, value in row.items() if name != column} for row in ROWS]
    with pytest.raises(StudyError, match=f"column {column} is missing"):
        read_traffic(write_table(tmp_path, rows), note=quiet)


def test_a_table_without_tasks_is_one_task(tmp_path: Path) -> None:
    notes: list[str] = []
    rows = [{name: value for name, value in row.items() if name != "task"} for row in ROWS]
    assert read_traffic(write_table(tmp_path, rows), note=notes.append).tasks == ("", "", "")
    assert "one task" in notes[0]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("absent.csv", None, ExitCode.NOT_FOUND),
        ("table.xls", "x", ExitCode.USAGE),
        ("table.jsonl", '{"prompt_id": 1', ExitCode.USAGE),
        ("table.jsonl", "[1, 2]", ExitCode.USAGE),
        ("table.json", "17", ExitCode.USAGE),
        ("table.parquet", "not parquet at all", ExitCode.USAGE),
        ("table.csv", "prompt_id,prompt,task,model,quality\n", ExitCode.USAGE),
        ("table.jsonl", b"\xff\xfe\x00", ExitCode.USAGE),
    ],
)
def test_files_that_are_no_tables_are_refused(
    tmp_path: Path, name: str, content: str | bytes | None, code: int
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StudyError) as caught:
        read_traffic(path, note=quiet)
    assert caught.value.exit_code == code


def test_models_without_arms_are_left_out_and_named(tmp_path: Path) -> None:
    notes: list[str] = []
    traffic = read_traffic(write_table(tmp_path, ROWS), note=quiet)
    arms = read_arms(write_arms(tmp_path, "b,n,10,2,1,0.5,100"))
    table = join_arms(traffic, arms, note=notes.append)
    assert table.models == ("b",)
    assert len(table.texts) == 2
    assert "1 of 2 models have no arm and are left out: a" in notes[0]
    np.testing.assert_allclose(table.joules_qm, 1 + 0.5 * OTHERWISE)
    np.testing.assert_allclose(table.ms_qm, 10 + 2 * OTHERWISE)


def test_no_model_with_an_arm_is_an_error(tmp_path: Path) -> None:
    traffic = read_traffic(write_table(tmp_path, ROWS), note=quiet)
    with pytest.raises(StudyError, match="none of the table's 2 models has an arm"):
        join_arms(traffic, read_arms(write_arms(tmp_path, "c,n,1,1,1,1,1")), note=quiet)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a,n,1,1,1,-1,1", "row 1, column j_per_output_token is '-1'"),
        ("a,n,1,x,1,1,1", "row 1, column ms_per_output_token is 'x'"),
        (",n,1,1,1,1,1", "row 1, column model is empty"),
        ("a,n,1,1,1,inf,1", "row 1, column j_per_output_token is 'inf'"),
    ],
)
def test_arms_that_cannot_be_meant_are_refused(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(StudyError) as caught:
        read_arms(write_arms(tmp_path, line))
    assert told in caught.value.why


def test_arms_may_be_json_and_the_cheapest_of_a_model_counts(tmp_path: Path) -> None:
    path = tmp_path / "arms.json"
    arms = [{"model": "a", "ms_per_output_token": 1, "j_per_output_token": j, "node": str(j)} for j in (3, 1, 2)]
    path.write_text(json.dumps({"arms": arms}))
    assert cheapest_arms(read_arms(path), 10.0) == {"a": Arm("a", "1", 0.0, 1.0, 0.0, 1.0, 0.0)}


def test_lengths_that_are_not_said_are_typical_ones() -> None:
    nan = np.nan
    filled = fill_tokens(np.array([[10.0, nan], [20.0, nan], [nan, nan], [nan, nan]]), ["a", "a", "a", "gsm8k"])
    np.testing.assert_array_equal(filled, [[10, 15], [20, 15], [15, 15], [tokens_of("gsm8k")] * 2])
    assert tokens_of("MATH_prealgebra") != tokens_of("trivia_qa") == OTHERWISE
