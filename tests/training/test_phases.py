"""The decisions of stage 1, one evaluation after the other, against what each situation calls for."""

import json
import math

import pytest

from pvdm_jax.config import AdversarialConfig
from pvdm_jax.training.phases import (
    BOTH,
    DISCRIMINATOR,
    GENERATOR,
    RECONSTRUCTION,
    AdversarialSchedule,
)
from pvdm_jax.training.policy import BEGIN, END, ROLL_BACK, PhaseRecord

GOOD = {"error": 1.0, "error_now": 1.0, "discriminator_loss": 1.5}


def phases(**changes):
    values = {"start_step": 100, "warmup_steps": 20, "guard_tolerance": 0.2, "guard_rollbacks": 2}
    return AdversarialSchedule(AdversarialConfig(**(values | changes)))


def adversarial(**changes):
    """A schedule whose adversarial phase began after step 100 at an error of 1."""
    made = phases(**changes)
    made.judge(50, {"error": 1.1, "error_now": 1.1})
    assert made.judge(100, {"error": 1.0, "error_now": 1.0}).action == BEGIN
    return made


def test_without_an_adversarial_phase_only_the_best_is_chosen():
    made = AdversarialSchedule(AdversarialConfig())
    for step, error in enumerate((0.5, 0.3, 0.4, 0.2, 0.2), start=1):
        assert made.judge(step, {"error": error}).action == ""
        assert made.step_name(step + 1) == RECONSTRUCTION
        assert not made.evaluation_due(step)
    assert (made.record.best_step, made.record.best_error) == (4, 0.2)
    assert made.last_step(10) == 10


def test_the_phase_begins_at_its_step():
    made = phases()
    assert made.judge(99, GOOD).action == ""
    assert made.evaluation_due(100) and not made.evaluation_due(99) and made.step_name(100) == RECONSTRUCTION
    record = made.judge(100, GOOD)
    assert (record.action, record.adversarial_start, record.warmup_start) == (BEGIN, 100, 100)
    assert made.step_name(101) == BOTH
    assert not made.evaluation_due(100)
    assert made.judge(150, GOOD).action == ""


def test_the_phase_begins_at_a_plateau():
    made = phases(start_step=1000, plateau=2, plateau_gain=0.1)
    # Gains of 10 %, then less; small gains that add up to one count as one.
    actions = [
        made.judge(step, {"error": error}).action
        for step, error in zip(range(10, 70, 10), (1, 0.8, 0.75, 0.7, 0.66, 0.65), strict=True)
    ]
    assert actions == ["", "", "", "", "", BEGIN]
    assert made.record.adversarial_start == 60
    assert made.record.best_step == 60
    assert "2 evaluations brought no gain of 10%" in made.record.reason


def test_turns_are_taken_from_the_first_step_of_the_phase():
    made = adversarial(alternate=True)
    assert [made.step_name(step) for step in (101, 102, 103, 104)] == [GENERATOR, DISCRIMINATOR] * 2


def test_the_phase_has_as_many_steps_as_it_is_given():
    assert adversarial(steps=40).last_step(1000) == 140
    assert adversarial(steps=40).last_step(120) == 120
    assert adversarial().last_step(1000) == 1000


def test_the_adversarial_phase_has_a_best_of_its_own():
    made = adversarial()
    # Until the warm-up is over, the reconstruction phase's best stays; then even a higher error takes its place.
    assert made.judge(110, GOOD | {"error": 0.99}).best_step == 100
    assert made.judge(120, GOOD | {"error": 1.15}).best_step == 120
    assert made.judge(130, GOOD | {"error": 1.12}).best_step == 130
    assert made.judge(140, GOOD | {"error": 1.13}).best_step == 130


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"error": 1.21}, "held-out error is 1.21, more than 20% over the lowest, 1"),
        ({"error_now": 1.3}, "held-out error_now is 1.3"),
        ({"error": math.nan}, "held-out error is nan"),
        ({"error_now": math.inf}, "held-out error_now is inf"),
        ({"discriminator_loss": 0.01}, "discriminator_loss is 0.01, outside 0.02 to 6"),
        ({"discriminator_loss": 7.0}, "discriminator_loss is 7, outside 0.02 to 6"),
        ({"discriminator_loss": math.nan}, "discriminator_loss is nan"),
    ],
)
def test_the_guard_rolls_back_and_in_the_end_ends(values, reason):
    made = adversarial()
    made.judge(120, GOOD)
    record = made.judge(130, GOOD | values)
    assert (record.action, record.rollbacks, record.best_step, record.warmup_start) == (ROLL_BACK, 1, 120, 130)
    assert reason in record.reason
    # The new warm-up holds back a new best, and the phase's length still counts from its beginning.
    assert made.judge(140, GOOD | {"error": 0.5}).best_step == 120
    assert made.judge(150, GOOD | {"error": 0.5}).best_step == 150
    assert made.record.adversarial_start == 100
    assert made.judge(160, GOOD | {"discriminator_loss": 0.0}).action == ROLL_BACK
    record = made.judge(170, GOOD | {"discriminator_loss": 0.0})
    assert (record.action, record.ended, record.best_step) == (END, 170, 150)
    assert made.last_step(1000) == 170


def test_what_the_guard_allows():
    made = adversarial()
    for step, error in ((110, 1.19), (120, 1.19), (130, 0.8), (140, 0.95)):
        assert made.judge(step, GOOD | {"error": error, "error_now": error}).action == ""
    # The bound follows the lowest error.
    assert made.judge(150, GOOD | {"error": 0.97}).action == ROLL_BACK


def test_without_a_guard_nothing_is_rolled_back():
    made = adversarial(guard_tolerance=0.0)
    record = made.judge(130, {"error": math.nan, "error_now": math.nan, "discriminator_loss": 0.0})
    assert record.action == "" and record.best_step == 100


def test_a_record_survives_json():
    for record in (PhaseRecord(), adversarial().record):
        text = json.dumps(record.to_json(), allow_nan=False)
        assert PhaseRecord.from_json(json.loads(text)) == record
