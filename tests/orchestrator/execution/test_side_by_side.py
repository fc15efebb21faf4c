"""Experts side by side when time runs out: those that have answered are the answer."""

from tests.fakes.live import until
from tests.orchestrator.builders import an_arm, limits
from tests.orchestrator.execution.house import MakeHouse, outcomes, says, silence
from tests.orchestrator.routing.models import GivenModel, together

SMALL = an_arm("small", "n1", energy_j=0.01)
LARGE = an_arm("large", "n2", energy_j=0.1)


async def test_one_answer_stands_when_time_runs_out_for_the_other(make_house: MakeHouse) -> None:
    house = make_house(GivenModel({together("small", "large"): 0.95}), max_patience_s=60.0)
    house.add({SMALL: says(7)})
    large = house.add({LARGE: silence})
    progress = house.start(limits(latency_ms=150.0))
    assert int((await house.run(progress)).label) == 7
    assert progress.elapsed_ms < 250.0
    await until(lambda: large.cancelled)
    assert sorted(outcomes(progress)) == [(LARGE.name, "cancelled", "CANCELLED"), (SMALL.name, "answered", "")]
