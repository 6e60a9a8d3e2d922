"""Promotion ASHA by hand-worked examples."""

from __future__ import annotations

import time

import pytest

from orchestrator.search.allocation.allocator import AllocationSetting, Propose, Resume
from orchestrator.search.allocation.promotion_asha import PromotionAsha, rung_epochs


def rule(trials: int, max_epochs: int = 9, **setting: int | None) -> PromotionAsha:
    return PromotionAsha(AllocationSetting(trials=trials, max_epochs=max_epochs, **setting))  # type: ignore[arg-type]


def begin(asha: PromotionAsha, number: int, *scores: float, epoch: int = 1) -> bool:
    """Start a trial, report an epoch, and pause it where the rule says so; return whether it continues."""
    asha.start(number, {})
    if asha.report(number, epoch, scores, 1.0):
        return True
    asha.pause(number, epoch)
    return False


@pytest.mark.parametrize(
    ("grace", "factor", "last", "rungs"),
    [(1, 3, 27, [1, 3, 9]), (2, 3, 12, [2, 6]), (2, 2, 2, []), (1, 2, 5, [1, 2, 4])],
)
def test_rungs_lie_at_powers_of_the_factor_below_the_last_epoch(
    grace: int, factor: int, last: int, rungs: list[int]
) -> None:
    setting = AllocationSetting(trials=1, max_epochs=last, grace_epochs=grace, reduction_factor=factor)
    assert rung_epochs(setting) == rungs


def test_a_third_of_each_rung_is_promoted_from_the_top() -> None:
    asha = rule(trials=9)

    assert not begin(asha, 0, 0.5)
    assert not begin(asha, 1, 0.7)
    assert asha.next_trial(2) == Propose()  # 2 // 3 of the rung may be promoted
    assert not begin(asha, 2, 0.1)
    assert asha.next_trial(3) == Resume(1)
    assert asha.next_trial(3) == Resume(1)  # asking changes nothing
    asha.start(1, {})
    assert asha.report(1, 2, [0.6], 1.0)
    assert not asha.report(1, 3, [0.75], 1.0)  # alone on the rung of epoch 3
    asha.pause(1, 3)
    assert asha.next_trial(3) == Propose()
    for number, score in ((3, 0.6), (4, 0.2)):
        assert not begin(asha, number, score)
    assert begin(asha, 5, 0.9)  # sixth of the rung: the best two may pass, 1 has, and 5 is the next: it does not pause
    assert asha.next_trial(6) == Propose()
    assert not asha.report(5, 3, [0.6], 1.0)
    asha.pause(5, 3)
    for number in (6, 7):
        assert not begin(asha, number, 0.0)
    assert not begin(asha, 8, 0.0)
    assert asha.next_trial(9) == Resume(3)  # three of nine: 5, 1 and 3
    asha.start(3, {})
    assert not asha.report(3, 3, [0.74], 1.0)
    asha.pause(3, 3)
    assert asha.next_trial(9) == Resume(1)  # three on the second rung: its best one is promoted, highest rung first
    asha.start(1, {})
    assert all(asha.report(1, epoch, [0.8], 1.0) for epoch in range(4, 10))
    assert not asha.is_finished
    asha.end(1)
    assert asha.next_trial(9) is None
    assert asha.is_finished


def test_the_best_trial_is_trained_to_the_end_even_where_no_rung_is_full() -> None:
    asha = rule(trials=2)
    assert not begin(asha, 0, 0.3)
    asha.start(1, {})
    assert not asha.report(1, 1, [0.2], 1.0)
    assert asha.next_trial(2) is None  # trial 1 still runs, and might fail
    assert not asha.is_finished
    asha.pause(1, 1)

    assert asha.next_trial(2) == Resume(0)
    asha.start(0, {})
    assert not asha.report(0, 3, [0.4], 1.0)
    asha.pause(0, 3)
    assert asha.next_trial(2) == Resume(0)  # on the highest rung
    asha.start(0, {})
    assert asha.report(0, 9, [0.4], 1.0)
    asha.end(0)
    assert asha.next_trial(2) is None
    assert asha.is_finished


def test_failed_trials_count_on_their_rungs_and_are_not_promoted() -> None:
    asha = rule(trials=4)
    assert not begin(asha, 0, 0.1)
    assert not begin(asha, 1, 0.2)
    assert begin(asha, 2, 0.9)
    asha.end(2)  # it has diverged on the way to the next rung
    assert asha.next_trial(3) == Propose()
    asha.start(3, {})
    asha.end(3)  # failed before it reported
    assert asha.next_trial(4) == Resume(1)  # one of three was promoted; nothing else is left to train to the end


def test_a_trial_that_skips_a_rung_is_promoted_past_it() -> None:
    asha = rule(trials=4)
    for number, score in ((0, 0.1), (1, 0.2)):
        assert not begin(asha, number, score, epoch=5)  # reports come every five epochs
    assert begin(asha, 2, 0.3, epoch=5)
    assert asha.report(2, 10, [0.3], 1.0)
    asha.end(2)
    assert asha.next_trial(3) == Propose()


def test_a_trial_paused_before_its_rung_resumes_last_and_continues_to_it() -> None:
    asha = rule(trials=1, grace_epochs=3)
    asha.start(0, {})
    assert asha.report(0, 1, [0.5], 1.0)
    asha.pause(0, 1)  # by the user
    assert asha.next_trial(0) == Propose()
    assert asha.next_trial(1) == Resume(0)
    asha.start(0, {})
    assert asha.report(0, 2, [0.5], 1.0)
    assert not asha.report(0, 3, [0.5], 1.0)


def test_no_trial_begins_once_the_epochs_are_used() -> None:
    asha = rule(trials=9, epochs=3)
    for number in range(3):
        assert asha.next_trial(number) == Propose()
        begin(asha, number, float(-number))
    assert asha.next_trial(3) is None
    assert asha.is_finished


def test_where_configurations_run_out_the_sweep_ends_with_those_proposed() -> None:
    asha = rule(trials=9)
    assert not begin(asha, 0, 0.3)
    assert not asha.is_finished
    asha.end_proposals(1)
    assert asha.next_trial(1) == Resume(0)


def test_several_objectives_promote_by_non_dominated_rank() -> None:
    asha = rule(trials=9)
    for number, scores in enumerate([(0.9, 0.1), (0.8, 0.05), (0.5, 0.5)]):
        assert not begin(asha, number, *scores)
    assert asha.next_trial(3) == Resume(0)  # 0 and 2 are equals, and 0 is the better one in the first objective
    asha.start(0, {})
    for number, scores in enumerate([(0.4, 0.4), (0.3, 0.3)], start=3):
        assert not begin(asha, number, *scores)
    assert asha.next_trial(5) == Propose()
    assert not begin(asha, 5, 0.0, 0.0)
    assert asha.next_trial(6) == Resume(2)  # 1 is better than 2 in the first objective, but 0 dominates it


def test_ten_thousand_trials_take_constant_time_each() -> None:
    def seconds(count: int) -> float:
        asha = rule(trials=count, max_epochs=81)
        begun, proposed = time.process_time(), 0
        while (choice := asha.next_trial(proposed)) is not None:
            number = proposed if choice == Propose() else choice.number  # type: ignore[union-attr]
            proposed += choice == Propose()
            asha.start(number, {})
            epoch = asha._epochs.get(number, 0) + 1
            while asha.report(number, epoch, [number * 7919 % 10007 + 0.001 * epoch], 1.0) and epoch < 81:
                epoch += 1
            asha.end(number) if epoch == 81 else asha.pause(number, epoch)
        return (time.process_time() - begun) / count

    seconds(200)
    assert seconds(10_000) < 5 * seconds(1_000)
