"""A protocol of few clips, in the feature space that needs no weights."""

from pvdm_jax.config.evaluation import ProtocolConfig

TINY = ProtocolConfig(
    measures=("fvd", "reconstruction", "seams"),
    features=("scattering",),
    samples=12,
    real_samples=12,
    frames=(8, 16),
    bootstrap=10,
    reconstruction_samples=6,
)
