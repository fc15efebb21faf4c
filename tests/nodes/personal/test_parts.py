"""The pieces of a local expert, each against what it promises."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes.personal import gate as gates
from nodes.personal import instant, warp
from nodes.personal.delta import Delta
from nodes.personal.drift import ASK_EVERY, ASK_PER_DAY, Watch, observe
from nodes.personal.expert import CURRENT, DELTA, Judgement, LocalExpert, Shelf, decode, encode
from nodes.personal.gate import HIDDEN, Gate
from nodes.personal.judging import beats
from nodes.personal.keeping import Corrections
from nodes.personal.sealing import KeySeal, Unsealed, destroy, owner_key, owner_mark

FEATURES, CLASSES = 84, 10


def _stored(rng: np.random.Generator, rows: int) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    features = rng.normal(0, 1, (rows, FEATURES)).astype(np.float32)
    probabilities = rng.dirichlet(np.ones(CLASSES), rows).astype(np.float32)
    return {"features": features, "probabilities": probabilities}, rng.integers(CLASSES, size=rows)


@pytest.mark.parametrize("rows", [1, 2, 40, 300])
def test_recursive_updates_equal_a_batch_fit(rows: int) -> None:
    rng = np.random.default_rng(rows)
    generic, labels_n = _stored(rng, 200)
    own, own_labels_n = _stored(rng, rows)
    prior = instant.prior(generic["features"], generic["probabilities"], labels_n)
    lacks_nc = instant.residual(own["probabilities"], own_labels_n)
    head = instant.InstantHead(prior)
    for feature_f, lack_c in zip(own["features"], lacks_nc, strict=True):
        head.update(feature_f, lack_c)
    batch_fc = instant.refit(prior, generic, own["features"], lacks_nc, labels_n)
    np.testing.assert_allclose(head.weight_fc, batch_fc, atol=1e-6)


def test_left_out_scores_equal_those_of_a_head_that_never_saw_the_sample() -> None:
    rng = np.random.default_rng(0)
    generic, labels_n = _stored(rng, 100)
    own, own_labels_n = _stored(rng, 12)
    prior = instant.prior(generic["features"], generic["probabilities"], labels_n)
    lacks_nc = instant.residual(own["probabilities"], own_labels_n)

    def taught(rows: list[int]) -> instant.InstantHead:
        head = instant.InstantHead(prior)
        for row in rows:
            head.update(own["features"][row], lacks_nc[row])
        return head

    left_out = taught(list(range(12))).left_out(own["features"], own["probabilities"], own_labels_n)
    for row in range(12):
        other = taught([n for n in range(12) if n != row])
        expected = other.correct_many(own["features"][row : row + 1], own["probabilities"][row : row + 1])[0]
        np.testing.assert_allclose(left_out[row], expected, atol=1e-8)


def test_the_gate_keeps_its_bound_on_samples_that_it_never_saw() -> None:
    rng = np.random.default_rng(0)
    generic_nf = rng.normal(0, 1, (1_000, 30)).astype(np.float32)
    own_nf = (rng.normal(0, 1, (100, 30)) + 1.0).astype(np.float32)
    fresh_nf = rng.normal(0, 1, (20_000, 30)).astype(np.float32)
    stored_nf = rng.normal(0, 1, (4_000, 30)).astype(np.float32)
    # The local expert loses a fifth of all generic samples that it is asked about.
    loss_n = (rng.random(4_000) < 0.2).astype(np.float64)
    for gate in (gates.discriminate(own_nf, generic_nf), gates.discriminate_linear(own_nf, generic_nf)):
        gate, drop = gates.calibrate(gate, stored_nf, lambda rows: loss_n[rows], bound_fraction=0.001)
        assert drop == pytest.approx(loss_n[gate.score(stored_nf) > 0].sum() / len(loss_n))
        assert drop <= 0.001
        assert (gate.score(fresh_nf) > 0).mean() * 0.2 <= 0.002
        assert (gate.score(own_nf) > 0).mean() > 0.8


def test_a_local_expert_that_loses_nothing_may_answer_everything() -> None:
    rng = np.random.default_rng(0)
    generic_nf = rng.normal(0, 1, (500, 30)).astype(np.float32)
    gate = gates.discriminate(generic_nf[:50] + 0.1, generic_nf)
    gate, drop = gates.calibrate(gate, generic_nf, lambda rows: np.zeros(len(rows)), bound_fraction=0.0005)
    assert drop == 0.0
    assert (gate.score(generic_nf) > 0).all()


def test_moments_find_a_slant_and_the_map_undoes_it() -> None:
    rng = np.random.default_rng(0)
    upright = np.zeros((60, 28, 28), np.float32)
    for image in upright:
        left = int(rng.integers(9, 15))
        image[6:22, left : left + 4] = 1.0
    slanted = warp.apply(upright, np.array([[1.0, 0.4, 0.0], [0.0, 1.0, 0.0]]))
    options = warp.candidates(slanted, upright)
    errors = [float(np.abs(warp.apply(slanted, option) - upright).mean()) for option in options]
    assert options[0] is warp.IDENTITY
    assert min(errors) < 0.5 * errors[0]
    there = options[int(np.argmin(errors))]
    np.testing.assert_allclose(warp.inverse(warp.inverse(there)), there, atol=1e-9)


def test_luck_does_not_beat() -> None:
    right, wrong = np.ones(8, np.bool_), np.zeros(8, np.bool_)
    assert beats(right, wrong, z=1.0)
    assert not beats(right, right, z=1.0)
    assert not beats(right, wrong, z=1.0, lent=-8)
    assert beats(right, right, z=1.0, lent=1)
    mixed = np.array([True] * 5 + [False] * 3)
    assert not beats(mixed, ~mixed, z=1.0)
    assert not beats(mixed[2:], ~mixed[2:], z=0.0)


def test_only_samples_that_the_gate_sends_first_are_asked_about() -> None:
    rng = np.random.default_rng(0)
    generic_nf = rng.normal(0, 1, (4_000, 30)).astype(np.float32)
    gate, asked = gates.discriminate(generic_nf[:50] + 0.1, generic_nf), 0

    def lost(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        nonlocal asked
        asked += len(rows)
        return np.ones(len(rows))

    gates.calibrate(gate, generic_nf, lost, bound_fraction=0.001)
    assert asked == gates.LOOK


def test_a_gate_goes_on_from_what_it_knows() -> None:
    rng = np.random.default_rng(0)
    generic_nf = rng.normal(2, 3, (1_000, 30)).astype(np.float32)
    own_nf = (rng.normal(2, 3, (100, 30)) + 1.5).astype(np.float32)
    first = gates.discriminate(own_nf[:75], generic_nf)
    more = gates.discriminate(own_nf, generic_nf, start=first)
    fresh_nf = (rng.normal(2, 3, (1_000, 30)) + 1.5).astype(np.float32)

    def separates(gate: Gate) -> float:
        edge = np.quantile(gate.score(generic_nf), 0.95)
        return float((gate.score(fresh_nf) > edge).mean())

    assert separates(more) >= separates(first) - 0.01
    assert not np.allclose(more.first_fh, first.first_fh)


# ---- keeping


def _expert(version: int) -> LocalExpert:
    rng = np.random.default_rng(version)
    gate = Gate(
        rng.normal(size=(30, HIDDEN)).astype(np.float32),
        rng.normal(size=HIDDEN).astype(np.float32),
        rng.normal(size=HIDDEN).astype(np.float32),
        0.25,
    )
    arrays = {"a.mix": rng.normal(size=(16, 16)).astype(np.float32)}
    return LocalExpert(
        version, DELTA, "digest", gate, Judgement(8, 0.5, 0.75, 0.0001), 24, delta=Delta(arrays, warp.IDENTITY)
    )


def test_an_expert_comes_back_as_it_was() -> None:
    expert = _expert(3)
    back = decode(encode(expert))
    assert (back.version, back.tier, back.judgement, back.learned) == (3, DELTA, expert.judgement, 24)
    assert back.delta is not None
    assert back.delta.geometry is warp.IDENTITY
    assert expert.delta is not None
    np.testing.assert_array_equal(back.delta.arrays["a.mix"], expert.delta.arrays["a.mix"])


def _shelf(folder: Path, digest: str = "digest") -> Shelf:
    return Shelf(folder, KeySeal(owner_key(folder)), model_digest=digest)


def test_a_promotion_cut_anywhere_leaves_the_old_or_the_new_expert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every system call of a promotion fails once, as if the process were killed there."""
    for step in range(12):
        folder = tmp_path / str(step)
        shelf = _shelf(folder)
        shelf.promote(_expert(1))
        shelf.promote(_expert(2))
        calls = [0]

        def dying(real: Callable[..., Any], calls: list[int] = calls, step: int = step) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                calls[0] += 1
                if calls[0] > step:
                    raise KeyboardInterrupt
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patched:
            for name in ("link", "open", "fsync"):
                patched.setattr(f"os.{name}", dying(getattr(os, name)))
            patched.setattr(Path, "replace", dying(Path.replace))
            with contextlib.suppress(KeyboardInterrupt):
                shelf.promote(_expert(3))
        found = _shelf(folder).current()
        assert found is not None
        assert found.version in (2, 3)


def test_a_damaged_expert_gives_way_to_the_one_before(tmp_path: Path) -> None:
    shelf = _shelf(tmp_path)
    shelf.promote(_expert(1))
    shelf.promote(_expert(2))
    data = bytearray((tmp_path / CURRENT).read_bytes())
    for at in (0, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 1
        (tmp_path / CURRENT).write_bytes(damaged)
        found = _shelf(tmp_path).current()
        assert found is not None
        assert found.version == 1


def test_experts_of_another_global_expert_are_not_served(tmp_path: Path) -> None:
    _shelf(tmp_path).promote(_expert(1))
    assert _shelf(tmp_path, "another").current() is None


def test_the_reservoir_stays_within_its_size(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path, KeySeal(owner_key(tmp_path)), limit=10)
    for number in range(60):
        corrections.add(np.full((1, 2, 2), number, np.float32), number % 10)
    kept = corrections.all()
    assert len(kept) == 10
    assert [one.serial for one in kept] == sorted({one.serial for one in kept})
    assert max(one.serial for one in kept) > 20
    assert all(one.image[0, 0, 0] == one.serial for one in kept)


def test_marks_of_tenants_and_users_never_meet() -> None:
    pairs = [("a", "b"), ("ab", ""), ("", "ab"), ("a1:", "b"), ("a", "1:b"), ("A", "b")]
    assert len({owner_mark(*pair) for pair in pairs}) == len(pairs)


def test_a_destroyed_key_opens_nothing(tmp_path: Path) -> None:
    seal = KeySeal(owner_key(tmp_path / "user"))
    sealed = seal.close(b"secret", "role")
    with pytest.raises(Unsealed):
        seal.open(sealed, "another role")
    destroy(tmp_path / "user")
    with pytest.raises(Unsealed):
        KeySeal(owner_key(tmp_path / "user")).open(sealed, "role")


def test_questions_are_bounded() -> None:
    watch, asked = Watch(), 0
    for _ in range(1_000):
        watch, ask = observe(watch, by_local=True, margin=0.05, now_s=100.0)
        asked += ask
    assert asked == ASK_PER_DAY
    watch, ask = observe(replace(watch, asked_at=-ASK_EVERY), by_local=True, margin=0.05, now_s=100.0 + 86_400.0)
    assert ask
    _, ask = observe(Watch(), by_local=False, margin=0.9, now_s=0.0)
    assert not ask


def test_a_gate_that_sends_everything_to_the_local_expert_asks_for_labels() -> None:
    watch, asked = Watch(), False
    for _ in range(400):
        watch, ask = observe(watch, by_local=True, margin=0.99, now_s=0.0)
        asked = asked or ask
    assert asked
