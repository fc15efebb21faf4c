"""The line through texts: known costs come out, also where parts of them are nothing."""

from __future__ import annotations

import pytest

from nodes.arms import ArmSpec, TextTraits
from nodes.energy.contract import EnergyReading, Provenance, Span
from nodes.energy.meters.modelled import ModelledMeter
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.energy.profile import load_profile
from nodes.text_profiling import TextRun, fit_line, text_profile

CORNERS = [(10, 2), (40, 2), (10, 16)]
ARM = ArmSpec("e", "v", "skills", "onnx-lm", 1000, 1, 0.5, 10, text=TextTraits(512, 4.0, 8.0, "d"))


@pytest.mark.parametrize("line", [(5.0, 0.5, 2.0), (0.0, 0.5, 2.0), (5.0, 0.0, 2.0), (0.0, 0.0, 3.0)])
def test_known_lines_come_out(line: tuple[float, float, float]) -> None:
    found = fit_line(CORNERS, [line[0] + line[1] * prompt + line[2] * completion for prompt, completion in CORNERS])
    assert found == pytest.approx(line, abs=1e-9)


def test_no_part_is_negative() -> None:
    # A longer prompt that happened to be faster.
    found = fit_line(CORNERS, [10.0, 5.0, 30.0])
    assert min(found) >= 0.0
    assert found[1] == 0.0


def runs(reading: EnergyReading) -> list[TextRun]:
    times = [(1.0, 1.0), (1.1, 1.0), (50.0, 1.0)]
    return [
        TextRun(prompt, completion, (2.0 + 0.1 * prompt + 0.5 * completion) * slow, Span(), reading)
        for prompt, completion in CORNERS
        for slow, _ in times
    ]


def test_joules_follow_the_profile_and_one_slow_run_bends_nothing() -> None:
    profile = load_profile("laptop-cpu")
    meter = ModelledMeter(profile)
    unknown = EnergyReading(1.0, 0.0, Provenance.MODELLED, meter.method)
    found = text_profile(ARM, meter, runs(unknown), {})
    assert found.text is not None
    assert found.text.decode_ms_per_token == pytest.approx(0.55, rel=0.01)
    assert found.text.decode_j_per_token == pytest.approx(profile.j_per_mac * 1000)
    assert found.text.overhead_j == profile.overhead_j
    assert found.p95_ms > found.p50_ms
    assert found.energy.provenance is Provenance.MODELLED


def test_joules_that_nobody_measured_stay_unknown() -> None:
    meter = UnmeasuredMeter()
    found = text_profile(ARM, meter, runs(EnergyReading(None, 0.0, Provenance.UNMEASURED, "none")), {})
    assert found.energy.energy_j is None
    assert found.energy.provenance is Provenance.UNMEASURED
    assert found.text is not None
    assert found.text.decode_j_per_token == 0.0


def test_measured_joules_are_fitted() -> None:
    measured = [
        TextRun(
            prompt,
            completion,
            1.0,
            Span(),
            EnergyReading(3.0 + 0.2 * prompt + 0.7 * completion, 0.0, Provenance.MEASURED, "rapl"),
        )
        for prompt, completion in CORNERS
    ]
    found = text_profile(ARM, UnmeasuredMeter(), measured, {})
    assert found.text is not None
    assert (found.text.overhead_j, found.text.prefill_j_per_token, found.text.decode_j_per_token) == pytest.approx(
        (3.0, 0.2, 0.7)
    )
    assert found.energy.provenance is Provenance.MEASURED
