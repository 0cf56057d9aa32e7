"""SkyTimelapse at 256 x 256 x 16 in the paper's sizes: variants `l` (the default), `s`, `l-official`, `s-official`.

    pvdm prepare           --source=SkyTimelapse --layout=sky_timelapse --output=data/sky_timelapse
    pvdm train-autoencoder --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm encode            --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm train-diffusion   --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm sample            --model=runs/sky_timelapse --output=runs/sky_timelapse/samples

SkyTimelapse/ holds train/ and test/ (or sky_train/ and sky_test/) of clips as folders of frames.
data.path is data/sky_timelapse unless given. LPIPS's weights are the user's to get, a file of torchvision's VGG16 and
one of LPIPS's linear layers: --config.train_autoencoder.perceptual_weights=VGG,LINEAR. Without them a VGG16 of random
weights stands in, as the run says loudly, and the numbers below are out of reach.

`l` is PVDM-L, `s` PVDM-S. They train by this project's own recipe, the `official` ones as the official code does, whose
denoiser moreover can't tell the two motion planes apart: half of its first clips come out with the two exchanged.
docs/fidelity.md compares the recipes constant by constant.

Hardware: 1, 2, 4 or 8 GPUs of 40 GB or more (stage 1 splits batches of 24 in three). Expected time on 8 A100, from the
work to be done at 30% of their TF32 peak (counted, not measured):

    stage 1    7.9 TFLOP per clip, 88,000 updates of 24 clips           12 hours
    encode     1.4 TFLOP per clip, once                                 minutes
    stage 2    0.73 TFLOP per clip, 850,000 updates of 64 clips (l)     29 hours
               0.22 TFLOP per clip, 400,000 updates of 64 clips (s)     4 hours

What the paper reports, to aim at (FVD, lower is better; PVDM-L 400/400 means sample.steps / sample.later_steps):

    |                | FVD16 | FVD128 |     | reconstruction     | train | test  |
    | PVDM-S 100/20  | 71.5  | 159.9  |     | R-FVD              | 7.37  | 36.52 |
    | PVDM-L 200/200 | 61.7  | 137.2  |     | PSNR, dB           | 34.33 | 32.68 |
    | PVDM-L 400/400 | 55.4  | 125.2  |
"""

from ml_collections import ConfigDict

from pvdm_jax.config.recipes import paper_config


def get_config(variant: str = "l") -> ConfigDict:
    config = paper_config("sky_timelapse", variant, context_prob=0.2)
    config.data.source = "tfds"
    config.data.path = "data/sky_timelapse"
    config.data.split = "train"
    config.data.eval_split = "test"  # watched during training; the paper's test set
    return config
