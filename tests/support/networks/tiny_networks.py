"""Networks of one block or little more of every class, for compilers, which are slow per layer."""

from collections.abc import Callable, Mapping

from torch import nn

from models.adaptive_span.network import AdaptiveSpanResNet, AugmentedResNet, ConvResNet, LocalAttentionResNet
from models.fcvit.network import FCViT
from models.lesa.network import LesaResNet
from models.lsas.network import LsasResNet
from models.spatial_bias.network import SpatialBiasResNet
from models.stand_alone.network import StandAloneResNet

__all__ = ["SIDE", "TINY"]

SIDE = 6  # side of the images in pixels


def _lesa(position_embedding: str) -> nn.Module:
    return LesaResNet(
        depths=(1,),
        widths=(16,),
        strides=(1,),
        large_image=False,
        stem_width=8,
        img_size=(SIDE, SIDE),
        stages=(True,),
        keep_first_conv=(False,),
        groups=2,
        position_embedding=position_embedding,
        num_classes=3,
    )


TINY: Mapping[str, Callable[[], nn.Module]] = {
    "conv": lambda: ConvResNet(depths=(1,), widths=(8,), strides=(2,), num_classes=3),
    "adaptive": lambda: AdaptiveSpanResNet(
        depths=(1,), widths=(8,), strides=(2,), num_heads=2, max_span=2, ramp=1.5, num_classes=3
    ),
    "adaptive_before_softmax": lambda: AdaptiveSpanResNet(
        depths=(1,),
        widths=(8,),
        strides=(2,),
        num_heads=2,
        max_span=2,
        ramp=0.75,
        shared_span=True,
        mask_before_softmax=True,
        scaled=True,
        num_classes=3,
    ),
    "local": lambda: LocalAttentionResNet(
        depths=(1,), widths=(8,), strides=(1,), num_heads=2, kernel_size=3, num_classes=3
    ),
    "augmented": lambda: AugmentedResNet(
        depths=(1,), widths=(8,), strides=(2,), dk=4, dv=2, num_heads=2, relative=True, num_classes=3
    ),
    "fcvit": lambda: FCViT(
        depths=(1,),
        embed_dims=(16,),
        mlp_ratios=(2,),
        stem_stride=2,
        stem_kernel_size=3,
        kernel_size_1=3,
        kernel_size_2=3,
        gc_reduction=4,
        num_heads=2,
        layer_scale_init=0.1,
        num_classes=3,
    ),
    "lesa": lambda: _lesa("classification"),
    "lesa_detection": lambda: _lesa("detection"),
    "stand_alone": lambda: StandAloneResNet(
        depths=(1, 0, 0, 0), stem="attention", num_heads=2, kernel_size=3, num_classes=3
    ),
    "lsas": lambda: LsasResNet(depths=(1, 0, 0), large_image=False, stages=(True, False, False), num_classes=3),
    "spatial_bias_with_nonlocal": lambda: SpatialBiasResNet(
        depths=(1,),
        widths=(8,),
        large_image=False,
        stem_width=8,
        pooled_size=3,
        stages=(True,),
        nonlocal_stages=(True,),
        nonlocal_every=1,
        num_classes=3,
    ),
}
