"""UCF-101 at 256 x 256 x 16 in the paper's sizes: variants `l` (PVDM-L, the default) and `s` (PVDM-S).

    pvdm prepare           --source=UCF-101 --output=data/ucf101
    pvdm train-autoencoder --config=ucf101:l --workdir=runs/ucf101
    pvdm encode            --config=ucf101:l --workdir=runs/ucf101
    pvdm train-diffusion   --config=ucf101:l --workdir=runs/ucf101
    pvdm sample            --model=runs/ucf101 --output=runs/ucf101/samples

UCF-101/ is the folder of the videos, one subfolder a class; the official code trains on those of trainlist01.txt.
data.path is data/ucf101 unless it is given.

What the paper reports, to aim at (FVD, lower is better; PVDM-L 400/400 means sample.steps / sample.later_steps):

    |                | FVD16 | FVD128 |     | reconstruction     | train | test  |
    | PVDM-S 100/20  | 457.4 | 902.2  |     | R-FVD              | 25.87 | 32.26 |
    | PVDM-L 200/200 | 398.9 | 639.7  |     | PSNR, dB           | 27.34 | 26.99 |
    | PVDM-L 400/400 | 343.6 | 648.4  |     | Inception score, L | 74.40         |

The networks are the paper's. Its denoiser can't tell the two motion planes apart, so that half of the first clips come
out with the two exchanged; --config.unet.position_embedding=True mends that with 27 vectors of further parameters.
"""

from ml_collections import ConfigDict

from pvdm_jax.config import require
from pvdm_jax.settings import default_config

VARIANTS = ("l", "s")


def get_config(variant: str = "l") -> ConfigDict:
    require(variant in VARIANTS, "variant", variant, f"ucf101 has {' and '.join(VARIANTS)}")
    large = variant == "l"
    config = default_config()  # its models are the autoencoder of the paper and PVDM-L

    config.data.source = "tfds"
    config.data.path = "data/ucf101"
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
    stage.context_prob = 0.3

    config.sample.steps = 200 if large else 100
    config.sample.later_steps = 200 if large else 20
    return config
