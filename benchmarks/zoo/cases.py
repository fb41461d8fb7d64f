"""The architectures: a small member of every family with convolutions, at an input that is as small as it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One architecture.

    Attributes:
        name: as its library knows it.
        library: "timm" or "torchvision".
        size: height and width of the input, with the number of frames before them for video.
        part: the module to take, where the whole ends in a search over boxes.
        options: arguments of the factory.
    """

    name: str
    library: str
    size: tuple[int, ...]
    part: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        narrowed = ", narrowed" if self.library == "timm" and self.options else ""
        return f"{self.library} {self.name}{f'.{self.part}' if self.part else ''}{narrowed}"

    def build(self) -> nn.Module:
        """The model with random weights."""
        if self.library == "timm":
            model: nn.Module = timm.create_model(self.name, **self.options)
        else:
            model = torchvision.models.get_model(self.name, weights=None, **self.options)
        return model.get_submodule(self.part)

    def example_inputs(self) -> Tensor:
        return torch.randn(1, 3, *self.size)


def _square(library: str, side: int, *names: str) -> list[Case]:
    return [Case(name, library, (side, side)) for name in names]


_DETECTION = {"weights_backbone": None}

CASES = [
    *_square(
        "torchvision",
        64,
        *("alexnet", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5", "mobilenet_v2"),
        *(
            "mobilenet_v3_large",
            "mobilenet_v3_small",
            "regnet_x_400mf",
            "regnet_y_400mf",
            "resnet18",
            "resnet50",
        ),
        *("shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn"),
    ),
    Case("convnext_tiny", "torchvision", (64, 64)),
    Case("maxvit_t", "torchvision", (224, 224)),
    Case("googlenet", "torchvision", (64, 64), options={"init_weights": False}),
    Case("inception_v3", "torchvision", (96, 96), options={"init_weights": False}),
    *(
        Case(name, "torchvision", (64, 64), options=_DETECTION)
        for name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
    ),
    *(
        Case(name, "torchvision", (128, 128), "backbone", _DETECTION)
        for name in (
            "fasterrcnn_mobilenet_v3_large_fpn",
            "retinanet_resnet50_fpn",
            "ssdlite320_mobilenet_v3_large",
        )
    ),
    *(Case(name, "torchvision", (8, 32, 32)) for name in ("r3d_18", "mc3_18", "r2plus1d_18")),
    Case("ssd300_vgg16", "torchvision", (300, 300), "backbone", _DETECTION),
    Case("s3d", "torchvision", (16, 224, 224)),
    # The rest of it runs in float32 alone.
    Case("raft_small", "torchvision", (128, 128), "feature_encoder"),
    *_square(
        "timm",
        64,
        *(
            "repvgg_a0",
            "gernet_s",
            "mobileone_s0",
            "convnext_atto",
            "convnextv2_atto",
            "cs3darknet_s",
            "cspnext_tiny",
        ),
        *(
            "densenet121",
            "densenetblur121d",
            "dla46_c",
            "dla46x_c",
            "dpn48b",
            "edgenext_xx_small",
            "mnasnet_small",
        ),
        *("efficientnet_lite0", "tf_efficientnet_b0", "tf_mobilenetv3_small_100", "tinynet_e", "mixnet_s"),
        *("tf_mixnet_s", "fbnetc_100", "spnasnet_100", "mobilenetv2_050", "semnasnet_075", "efficientnet_es"),
        *("fasternet_t0", "fastvit_t8", "ghostnet_050", "ghostnetv2_100", "ghostnetv3_050", "hardcorenas_a"),
        *("hgnetv2_b0", "hrnet_w18_small", "iformer_t", "inception_next_atto", "lcnet_050", "lcnetv2_small"),
        *(
            "lowformer_b0",
            "mambaout_femto",
            "poolformerv2_s12",
            "mobilenetv3_small_050",
            "mobilenetv4_conv_small",
        ),
        *("mobilevit_xxs", "mobilevitv2_050", "nf_regnet_b0", "nf_resnet26", "pvt_v2_b0", "regnetx_002"),
        *("regnety_002", "regnetz_005", "repghostnet_050", "repvit_m0_9", "res2net50_14w_8s", "resnest14d"),
        *(
            "resnet10t",
            "resnetblur18",
            "resnext26ts",
            "seresnet18",
            "ecaresnet26t",
            "resnetv2_18",
            "rexnet_100",
        ),
        *(
            "selecsls42",
            "legacy_seresnet18",
            "skresnet18",
            "starnet_s050",
            "tresnet_m",
            "ese_vovnet19b_slim_dw",
        ),
        *(
            "xception41p",
            "convmixer_1024_20_ks9_p14",
            "rdnet_tiny",
            "cpubone_nano",
            "efficientvit_b0",
            "shvit_s1",
        ),
        *("efficientvim_m1", "nextvit_small", "gcresnext26ts"),
    ),
    *_square(
        "timm",
        96,
        "inception_v4",
        "inception_resnet_v2",
        "legacy_xception",
        "resnetv2_50x1_bit",
    ),
    *_square("timm", 128, "csatv2", "focalnet_tiny_srf", "davit_tiny"),
    *_square(
        "timm",
        224,
        *("cait_xxs24_224", "coat_tiny", "convit_tiny", "deit_tiny_patch16_224"),
        *("efficientformer_l1", "efficientformerv2_s0", "efficientvit_m0", "gcvit_xxtiny", "hiera_tiny_224"),
        *(
            "levit_conv_128s",
            "coatnet_pico_rw_224",
            "mvitv2_tiny",
            "nest_tiny",
            "pit_ti_224",
            "sequencer2d_s",
        ),
        *("swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "tiny_vit_5m_224"),
        *(
            "twins_svt_small",
            "visformer_tiny",
            "vit_tiny_r_s16_p8_224",
            "xcit_nano_12_p16_224",
            "volo_d1_224",
        ),
        *("tnt_s_patch16_224", "resmlp_12_224", "vitamin_small_224", "vit_srelpos_small_patch16_224"),
    ),
    *_square("timm", 240, "crossvit_tiny_240"),
    # These come in one size, a large one.
    Case("nasnetalarge", "timm", (96, 96), options={"stem_size": 16, "num_features": 192}),
    Case("mobilenetv5_base", "timm", (128, 128), options={"channel_multiplier": 0.25}),
    Case("hieradet_small", "timm", (128, 128), options={"embed_dim": 48}),
    Case(
        "samvit_base_patch16_224",
        "timm",
        (224, 224),
        options={
            "embed_dim": 192,
            "depth": 4,
            "num_heads": 3,
            "global_attn_indexes": (1, 3),
            "neck_chans": 64,
        },
    ),
    *_square("timm", 256, "bat_resnext26ts", "halonet_h1", "lambda_resnet26t", "swinv2_tiny_window8_256"),
]
