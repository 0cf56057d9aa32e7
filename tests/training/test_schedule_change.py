"""A run that resumes with more steps says how its learning rates change."""

import dataclasses

import pytest
from toy_stage import SETTINGS, run, toy_config

from pvdm_jax.config import AdversarialConfig, AutoencoderTrainingConfig, OptimizerConfig
from pvdm_jax.training.schedule_change import warn_of_schedule

COSINE = OptimizerConfig(learning_rate=1e-3, decay="cosine")


def test_a_longer_cosine_schedule_is_said(tmp_path, caplog):
    config = toy_config(steps=4, optimizer=COSINE)
    settings = SETTINGS | {"train": {"steps": 4}}
    run(tmp_path, config, settings=settings)
    run(tmp_path, config, settings=settings)
    assert "cosine" not in caplog.text
    run(tmp_path, dataclasses.replace(config, steps=8), settings=SETTINGS | {"train": {"steps": 8}})
    expected = (
        "toy: train.steps is 8 (it was 4), where the cosine schedule ends: after step 4 the learning rate goes from 0 "
        "to 0.0005"
    )
    assert [record.message for record in caplog.records if "cosine" in record.message] == [expected]


@pytest.mark.parametrize(
    "decay, phase_steps, expected", [("cosine", 0, True), ("cosine", 5, False), ("constant", 0, False)]
)
def test_discriminators_too(caplog, decay, phase_steps, expected):
    phase = AdversarialConfig(start_step=2, steps=phase_steps, optimizer=dataclasses.replace(COSINE, decay=decay))
    config = AutoencoderTrainingConfig(steps=20, adversarial=phase)
    warn_of_schedule("autoencoder", config, {"train_autoencoder": {"steps": 10}}, 10)
    assert ("the discriminators' learning rate goes from 0 to 0.0005" in caplog.text) == expected
