"""Compiling for real: in a child process, checked against the float model there, refused where it loses too much."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from nodes.arms import ArmSpec, Inventory
from nodes.compile import device
from nodes.compile.accuracy import compare, require
from nodes.compile.bench import Workbench
from nodes.compile.errors import AccuracyLost, CompileError, RuntimeMissing
from nodes.compile.forms import Batches, Form, Precision, Runtime, parse_wishes
from nodes.compile.offering import subject_of, with_compiled
from nodes.compile.pipeline import Bounds, Pipeline, Subject, traits_of
from nodes.errors import ConfigError
from nodes.inventory import load_inventory
from nodes.zoo.catalog import load_catalog
from tests.nodes.compile.conftest import fragile

INT8, ORT = Form(Runtime.ORT, Precision.INT8), Form(Runtime.ORT, Precision.FP32)
FORMS = [ORT, INT8, Form(Runtime.ORT, Precision.FP16), replace(ORT, batches=Batches(8, 8, 8))]
# How far probabilities may be from the float model's.
NEAR = {Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.INT8: 0.15}


def digit_subject(expert: str = "digits-conv8") -> Subject:
    inventory = load_inventory(None, (expert,))
    return subject_of(inventory.arms[0], inventory.tasks[0], load_catalog())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.variant)
def test_a_compiled_form_answers_as_the_float_model_does(
    opened: Pipeline, benches: tuple[Workbench, Workbench], form: Form
) -> None:
    subject = digit_subject()
    compiled = opened.compiled(subject, form)
    assert compiled.comparison is not None
    assert compiled.comparison.samples == 360
    assert compiled.comparison.loss_points <= 0.5
    bench = benches[0]
    some = {name: array[:21] for name, array in subject.held_out.items()}
    bench.load(subject.file, subject.digest)
    expected = bench.run(some)
    entry = compiled.entry
    bench.load(entry.file, entry.digests[entry.main], traits_of(form, entry.beside))
    np.testing.assert_allclose(bench.run(some), expected, atol=NEAR[form.precision])
    assert opened.compiled(subject, form).entry.made is False


def test_int8_is_explicit_and_smaller(opened: Pipeline) -> None:
    import onnx

    subject = digit_subject("digits-wide")
    entry = opened.compiled(subject, INT8).entry
    # Fused by then: ONNX Runtime has made quantised convolutions of QuantizeLinear, Conv, DequantizeLinear.
    assert "QLinearConv" in {node.op_type for node in onnx.load(entry.file).graph.node}
    assert entry.size_bytes < subject.file.stat().st_size / 3


def test_int8_that_loses_too_much_is_refused_with_what_was_measured(opened: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(AccuracyLost) as refusal:
        opened.compiled(fragile(tmp_path), INT8)
    assert refusal.value.loss_points > 10
    assert f"{refusal.value.loss_points:.2f} points" in refusal.value.message
    assert "0.5 are allowed" in refusal.value.message


def test_the_refusal_outlives_the_build_and_ends_with_the_limit(
    opened: Pipeline, tmp_path: Path, benches: tuple[Workbench, Workbench]
) -> None:
    subject = fragile(tmp_path)
    for _ in range(2):
        with pytest.raises(AccuracyLost):
            opened.compiled(subject, INT8)
    lenient = Pipeline(opened._cache, *benches, bounds=Bounds(loss_points=100.0))
    compiled = lenient.compiled(subject, INT8)
    assert compiled.entry.made is False, "measured once, judged by whatever limit there is"
    assert opened.compiled(subject, ORT).comparison is not None, "unquantised, the same model loses nothing"


def test_a_form_that_computes_something_else_is_refused() -> None:
    floats = np.eye(4, dtype=np.float32)
    other = floats * 0.9  # The same classes, other numbers: no quantisation explains that.
    found = compare(floats, other, None)
    assert found.loss_points == 0.0
    require("x:int8", Precision.INT8, found, limit_points=0.5)
    with pytest.raises(CompileError, match="differs"):
        require("x:ort", Precision.FP32, found, limit_points=0.5)
    with pytest.raises(CompileError, match="not finitely"):
        compare(floats, floats * np.nan, None)


def test_without_labels_changed_answers_count(opened: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(AccuracyLost):
        opened.compiled(replace(fragile(tmp_path), labels_n=None), INT8)


def test_a_file_that_is_not_the_announced_one_is_not_compiled(opened: Pipeline) -> None:
    with pytest.raises(CompileError, match="card"):
        opened.compiled(replace(digit_subject(), digest="0" * 64), ORT)


@pytest.mark.parametrize("runtime", [Runtime.CUDA, Runtime.ORT_TENSORRT, Runtime.TENSORRT])
def test_a_runtime_that_is_not_here_is_an_error_that_says_which(opened: Pipeline, runtime: Runtime) -> None:
    with pytest.raises(RuntimeMissing, match=str(runtime)):
        opened.compiled(digit_subject(), Form(runtime, Precision.FP32, Batches(1, 1, 1)))


@pytest.mark.parametrize("form", [ORT, INT8, replace(ORT, batches=Batches(2, 2, 2))], ids=lambda form: form.variant)
def test_bytes_that_are_no_model_are_refused(opened: Pipeline, tmp_path: Path, form: Form) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(CompileError, match="model"):
        opened.compiled(replace(digit_subject(), file=broken, digest=sha256(b"no model").hexdigest()), form)


def test_the_key_names_all_that_a_file_depends_on(opened: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = digit_subject()
    base = opened.purpose(subject, INT8)
    assert base["version"] == opened.identity(Runtime.ORT)["version"]
    assert base["model"] == subject.digest
    others = [
        opened.purpose(replace(subject, digest="1" * 64), INT8),
        opened.purpose(subject, ORT),
        opened.purpose(subject, replace(INT8, batches=Batches(1, 1, 1))),
        opened.purpose(replace(subject, calibration=subject.held_out), INT8),
        opened.purpose(replace(subject, held_out=subject.calibration, labels_n=None), INT8),
    ]
    monkeypatch.setattr(device, "cpu", lambda: "another processor")
    others.append(opened.purpose(subject, INT8))
    assert all(other != base for other in others)


# ---- arms


def offered(opened: Pipeline, *wishes: str, experts: tuple[str, ...] = ("digits-mlp",)) -> tuple[ArmSpec, ...]:
    return with_compiled(load_inventory(None, experts), [load_catalog()], parse_wishes(wishes), opened).arms


def test_every_form_is_an_arm_of_its_expert(opened: Pipeline) -> None:
    plain, int8, ort = offered(opened, "int8,ort", "digits-mlp:int8")
    assert [arm.key for arm in (plain, int8, ort)] == [
        "digits-mlp:onnx-fp32",
        "digits-mlp:ort-int8",
        "digits-mlp:ort-fp32",
    ]
    assert plain.compiled is None
    assert int8.compiled is not None
    assert (int8.quality_samples, int8.evidence_digest) == (360, plain.evidence_digest)
    assert int8.model_file != plain.model_file
    assert int8.memory_bytes < plain.memory_bytes


def test_forms_for_all_leave_out_what_loses_and_forms_by_name_fail(
    tmp_path: Path, benches: tuple[Workbench, Workbench], opened: Pipeline
) -> None:
    strict = Pipeline(opened._cache, *benches, bounds=Bounds(loss_points=0.1))
    # digits-linear loses more than that in int8, digits-conv8 nothing.
    both = ("digits-linear", "digits-conv8")
    assert [arm.key for arm in offered(strict, "int8", experts=both)][2:] == ["digits-conv8:ort-int8"]
    with pytest.raises(AccuracyLost, match=r"0\.1 are allowed"):
        offered(strict, "digits-linear:int8", experts=both)


def test_an_automatic_choice_takes_what_runs_here_and_a_named_one_that_does_not_is_an_error(opened: Pipeline) -> None:
    assert {arm.variant for arm in offered(opened, "auto")} == {"onnx-fp32", "ort-fp32", "ort-int8"}
    with pytest.raises(RuntimeMissing):
        offered(opened, "tensorrt")


def test_experts_that_cannot_be_compiled_are_refused_by_name_and_passed_over_else(opened: Pipeline) -> None:
    experts = ("digits-mlp", "digits-gated")
    assert len(offered(opened, "ort", experts=experts)) == 3
    with pytest.raises(ConfigError, match="chain"):
        offered(opened, "digits-gated:ort", experts=experts)
    with pytest.raises(ConfigError, match="digits-mlp"):
        offered(opened, "nobody:ort")


def test_no_wish_no_change(opened: Pipeline) -> None:
    inventory: Inventory = load_inventory(None, ("digits-mlp",))
    assert with_compiled(inventory, [load_catalog()], (), opened).arms == inventory.arms
