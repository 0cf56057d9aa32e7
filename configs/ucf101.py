"""UCF-101 at 256 x 256 x 16 in the paper's sizes: variants `l` (the default), `s`, `l-official`, `s-official`.

    pvdm prepare           --source=UCF-101 --layout=ucf101 --output=data/ucf101
    pvdm train-autoencoder --config=ucf101:l --workdir=runs/ucf101
    pvdm encode            --config=ucf101:l --workdir=runs/ucf101
    pvdm train-diffusion   --config=ucf101:l --workdir=runs/ucf101
    pvdm sample            --model=runs/ucf101 --output=runs/ucf101/samples

UCF-101/ holds the videos, one subfolder a class; the official lists, ucfTrainTestlist/, lie in it or beside it. Like
the official code this trains on trainlist01 and watches testlist01; --config.data.split=all
--config.data.eval_split= trains on everything, as StyleGAN-V's protocol does, and watches the end of each video.
data.path is data/ucf101 unless it is given. LPIPS's weights are the user's to get, a file of torchvision's VGG16 and
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
    | PVDM-S 100/20  | 457.4 | 902.2  |     | R-FVD              | 25.87 | 32.26 |
    | PVDM-L 200/200 | 398.9 | 639.7  |     | PSNR, dB           | 27.34 | 26.99 |
    | PVDM-L 400/400 | 343.6 | 648.4  |     | Inception score, L | 74.40         |
"""

from ml_collections import ConfigDict

from pvdm_jax.config.recipes import paper_config


def get_config(variant: str = "l") -> ConfigDict:
    config = paper_config("ucf101", variant, context_prob=0.3)
    config.data.source = "tfds"
    config.data.path = "data/ucf101"
    config.data.split = "train"
    config.data.eval_split = "test"  # watched during training
    return config
