"""SkyTimelapse at 256 x 256 x 16 in the paper's sizes: variants `l` (PVDM-L, the default) and `s` (PVDM-S).

    pvdm prepare           --source=SkyTimelapse --output=data/sky_timelapse
    pvdm train-autoencoder --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm encode            --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm train-diffusion   --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm sample            --model=runs/sky_timelapse --output=runs/sky_timelapse/samples

SkyTimelapse/ is a folder of the training videos; data.path is data/sky_timelapse unless it is given.

What the paper reports, to aim at (FVD, lower is better; PVDM-L 400/400 means sample.steps / sample.later_steps):

    |                | FVD16 | FVD128 |     | reconstruction     | train | test  |
    | PVDM-S 100/20  | 71.5  | 159.9  |     | R-FVD              | 7.37  | 36.52 |
    | PVDM-L 200/200 | 61.7  | 137.2  |     | PSNR, dB           | 34.33 | 32.68 |
    | PVDM-L 400/400 | 55.4  | 125.2  |

The networks are the paper's. Its denoiser can't tell the two motion planes apart, so that half of the first clips come
out with the two exchanged; --config.unet.position_embedding=True mends that with 27 vectors of further parameters.
"""

from ml_collections import ConfigDict

from pvdm_jax.config import require
from pvdm_jax.settings import default_config

VARIANTS = ("l", "s")


def get_config(variant: str = "l") -> ConfigDict:
    require(variant in VARIANTS, "variant", variant, f"sky_timelapse has {' and '.join(VARIANTS)}")
    large = variant == "l"
    config = default_config()  # its models are the autoencoder of the paper and PVDM-L

    config.data.source = "tfds"
    config.data.path = "data/sky_timelapse"
    config.data.resize = "bilinear"
    config.data.holdout = 0.05  # watched during training; the paper's test set is other videos

    stage = config.train_autoencoder
    stage.steps = 250_000
    stage.batch_size = 24
    stage.accumulate = 3
    stage.optimizer.learning_rate = 1e-4
    stage.optimizer.b1 = 0.5
    stage.optimizer.b2 = 0.9

    config.unet.model_channels = 256 if large else 128

    stage = config.train_diffusion
    stage.steps = 850_000 if large else 400_000
    stage.batch_size = 64
    stage.optimizer.learning_rate = 1e-4
    stage.ema_decay = 0.9999
    stage.ema_every = 25
    stage.context_prob = 0.2

    config.sample.steps = 200 if large else 100
    config.sample.later_steps = 200 if large else 20
    return config
