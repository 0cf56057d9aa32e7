"""What a run's folder says about its weights, for the card of a model folder that is made from it."""

from typing import Any

from pvdm_jax.storage.checkpoint import best_step
from pvdm_jax.storage.json_files import Maybe, read_json
from pvdm_jax.storage.run_folder import DATASET, RunFolder, StageFolder, read_metrics
from pvdm_jax.weights.model_card import AUTOENCODER, DENOISER, SECTIONS, network_facts, read_card
from pvdm_jax.weights.model_folder import is_model_folder


def run_card(run: RunFolder) -> dict[str, Any]:
    """The facts about the stages of a run that have begun: {"source", "training", "numbers"}, each by network.

    The numbers are those of the best checkpoint's evaluation, or of the last evaluation if no checkpoint is marked as
    the best. Facts about an imported autoencoder are those of its own card.
    """
    card: dict[str, Any] = {section: {} for section in SECTIONS}
    for network, folder in ((AUTOENCODER, run.autoencoder), (DENOISER, run.diffusion)):
        if is_model_folder(folder.path):  # an imported autoencoder
            facts = network_facts(read_card(folder.path), AUTOENCODER)
        elif folder.has_begun:
            facts = _stage_facts(network, folder)
        else:
            continue
        for section, values in facts.items():
            card[section] |= values
    return card


def _stage_facts(network: str, folder: StageFolder) -> dict[str, dict[str, Any]]:
    shape = {"data": Maybe({"path": Maybe(str), "source": Maybe(str)}), DATASET: Maybe(str)}
    settings = read_json(folder.config, shape)
    data = settings.get("data") or {}
    training = {"data": data.get("path") or data.get("source", "not known"), "seed": settings.get("seed")}
    if settings.get(DATASET) not in (None, data.get("source")):
        training["dataset's fingerprint"] = settings[DATASET]
    facts = {"source": {network: "the EMA weights of a training run of pvdm_jax"}, "training": {network: training}}
    step, numbers = _evaluation(folder)
    if step is not None:
        training["evaluated after step"] = step
        facts["numbers"] = {network: numbers}
    return facts


def _evaluation(folder: StageFolder) -> tuple[int | None, dict[str, float]]:
    """The step and the numbers of the evaluation that counts; (None, {}) if there was none."""
    evaluations: dict[int, dict[str, float]] = {}
    for report in read_metrics(folder.metrics):
        numbers = {name.removeprefix("eval/"): x for name, x in report.items() if name.startswith("eval/")}
        if numbers:
            evaluations[report["step"]] = numbers
    step = best_step(folder.path)
    if step not in evaluations:
        step = max(evaluations, default=None)
    return step, evaluations.get(step, {})
