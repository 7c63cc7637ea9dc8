"""The families of networks, narrow and shallow: torchvision's own classes, and blocks that torchvision lacks."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.body import WIDTH, Apply, Builder, between, conv, conv_norm, pixels, tokens

from ptqflow.core.torchvision_shim import ensure_torchvision_imports

ensure_torchvision_imports()

from torchvision import models  # noqa: E402
from torchvision.models import (  # noqa: E402  # noqa: E402
    convnext,
    densenet,
    efficientnet,
    inception,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
    swin_transformer,
    vgg,
)
from torchvision.models.googlenet import Inception  # noqa: E402
from torchvision.ops import SqueezeExcitation  # noqa: E402


def _narrow_resnet(block: type[nn.Module], num_classes: int, **options: object) -> nn.Module:
    """A ResNet of one block per stage, without the last two stages."""
    network = models.ResNet(block, [1, 1, 1, 1], num_classes=num_classes, **options)
    network.layer3, network.layer4 = nn.Identity(), nn.Identity()
    network.fc = nn.Linear(128 * block.expansion, num_classes)
    return network


def _resnet(num_classes: int) -> nn.Module:
    return _narrow_resnet(resnet.BasicBlock, num_classes)


def _resnext(num_classes: int) -> nn.Module:
    return _narrow_resnet(resnet.Bottleneck, num_classes, groups=4, width_per_group=8)


def _wide_resnet(num_classes: int) -> nn.Module:
    return _narrow_resnet(resnet.Bottleneck, num_classes, width_per_group=32)


def _resnet_group_norm(num_classes: int) -> nn.Module:
    return _narrow_resnet(resnet.BasicBlock, num_classes, norm_layer=partial(nn.GroupNorm, 4))


def _mobilenet_v2(num_classes: int) -> nn.Module:
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    return models.MobileNetV2(num_classes, width_mult=0.5, inverted_residual_setting=settings)


def _mobilenet_v3(num_classes: int) -> nn.Module:
    block = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [
        block(16, 3, 16, 16, True, "RE", 2),
        block(16, 3, 48, 24, False, "RE", 2),
        block(24, 5, 72, 24, True, "HS", 1),
    ]
    return models.MobileNetV3(blocks, 64, num_classes=num_classes)


def _efficientnet(num_classes: int) -> nn.Module:
    block = partial(efficientnet.MBConvConfig, width_mult=1.0, depth_mult=1.0)
    blocks = [block(1, 3, 1, 16, 16, 1), block(4, 3, 2, 16, 24, 2), block(4, 5, 2, 24, 32, 1)]
    return models.EfficientNet(blocks, 0.1, num_classes=num_classes, last_channel=64)


def _efficientnet_v2(num_classes: int) -> nn.Module:
    fused = efficientnet.FusedMBConvConfig
    blocks = [fused(1, 3, 1, 16, 16, 1), fused(4, 3, 2, 16, 24, 1), efficientnet.MBConvConfig(4, 3, 2, 24, 32, 1)]
    return models.EfficientNet(blocks, 0.1, num_classes=num_classes, last_channel=64)


def _densenet(num_classes: int) -> nn.Module:
    return models.DenseNet(8, (2, 2), num_init_features=16, bn_size=2, num_classes=num_classes)


def _regnet(num_classes: int) -> nn.Module:
    parameters = regnet.BlockParams.from_init_params(depth=4, w_0=16, w_a=8.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return models.RegNet(parameters, num_classes, stem_width=16)


def _convnext(num_classes: int) -> nn.Module:
    stages = [convnext.CNBlockConfig(16, 32, 2), convnext.CNBlockConfig(32, None, 1)]
    return models.ConvNeXt(stages, num_classes=num_classes, layer_scale=0.1)


def _vit(num_classes: int) -> nn.Module:
    return models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=num_classes)


def _swin(num_classes: int) -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 1], [2, 4], [4, 4], mlp_ratio=2.0, num_classes=num_classes)


def _swin_v2(num_classes: int) -> nn.Module:
    return models.SwinTransformer(
        [4, 4], 16, [2, 1], [2, 4], [4, 4], mlp_ratio=2.0, num_classes=num_classes,
        block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2,
    )  # fmt: skip


def _maxvit(num_classes: int) -> nn.Module:
    return models.MaxVit((32, 32), 16, 4, [16, 32], [1, 1], 8, 0.1, num_classes=num_classes)


def _vgg(num_classes: int) -> nn.Module:
    network = models.VGG(vgg.make_layers([16, "M", 32, 32, "M"], batch_norm=True), num_classes)
    network.avgpool, network.classifier = (
        nn.AdaptiveAvgPool2d(2),
        nn.Sequential(nn.Linear(128, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, num_classes)),
    )
    return network


def _alexnet(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(True), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 32, 5, padding=2, groups=2), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Dropout(), nn.Linear(288, 64), nn.ReLU(True), nn.Linear(64, num_classes),
    )  # fmt: skip


def _lenet(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes),
    )  # fmt: skip


class _Mixer(nn.Module):
    """A block of MLP-Mixer: a perceptron along the pixels, then one along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.first, self.second = nn.AvgPool2d(4), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.along_pixels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.along_channels = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        sequence = tokens(x)
        sequence = sequence + self.along_pixels(self.first(sequence).transpose(1, 2)).transpose(1, 2)
        return pixels(sequence + self.along_channels(self.second(sequence)), x)


class _GatedPerceptron(nn.Module):
    """A block of gMLP: half of the channels gates the other, mixed along the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.norm, self.gate_norm = nn.AvgPool2d(4), nn.LayerNorm(WIDTH), nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(WIDTH, 32), nn.Linear(16, WIDTH)
        self.spatial = nn.Conv1d(16, 16, 1)
        nn.init.ones_(self.spatial.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        sequence = tokens(x)
        kept, gate = F.gelu(self.wide(self.norm(sequence))).chunk(2, dim=-1)
        return pixels(sequence + self.narrow(kept * self.spatial(self.gate_norm(gate))), x)


class _Ghost(nn.Module):
    """A Ghost module: half of the channels by a convolution, the others by a cheap one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap = conv_norm(16, 8), nn.Sequential(conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], 1)


class _RepVGG(nn.Module):
    """A block of RepVGG in its form for training: three branches that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(conv(bias=False), nn.BatchNorm2d(16))
        self.pointwise = nn.Sequential(conv(kernel=1, bias=False), nn.BatchNorm2d(16))
        self.identity = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x) + self.pointwise(x) + self.identity(x))


class _CrossStage(nn.Module):
    """A block of CSPNet: half of the channels skips the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = nn.Sequential(conv(8, 8), nn.SiLU(True), conv(8, 8), nn.SiLU(True)), conv(kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        return self.last(torch.cat([kept, self.block(changed)], 1))


class _PreActivation(nn.Module):
    """A residual block whose normalization and activation come first."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), conv(), nn.BatchNorm2d(16), nn.ReLU(), conv())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class _MetaFormer(nn.Module):
    """A block of PoolFormer: pooling in the place of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GroupNorm(1, 16), nn.GroupNorm(1, 16)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.perceptron = nn.Sequential(conv(16, 32, 1), nn.GELU(), conv(32, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.first(x)
        x = x + self.pool(normed) - normed
        return x + self.perceptron(self.second(x))


def _conv_mixer() -> nn.Module:
    depthwise = nn.Sequential(conv(kernel=5, groups=16), nn.GELU(), nn.BatchNorm2d(16))
    return nn.Sequential(Apply(lambda x, block: block(x) + x, depthwise), conv(kernel=1), nn.GELU(), nn.BatchNorm2d(16))


FAMILIES: dict[str, Builder] = {
    "resnet": _resnet,
    "resnext": _resnext,
    "wide_resnet": _wide_resnet,
    "resnet_group_norm": _resnet_group_norm,
    "resnet_pre_activation": between(_PreActivation),
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v2_block": between(lambda: mobilenetv2.InvertedResidual(16, 16, 1, 4)),
    "mobilenet_v3": _mobilenet_v3,
    "efficientnet": _efficientnet,
    "efficientnet_v2": _efficientnet_v2,
    "torchvision_squeeze_excitation": between(lambda: SqueezeExcitation(16, 4)),
    "mnasnet": lambda num_classes: models.MNASNet(0.1, num_classes),
    "shufflenet_v2": lambda num_classes: models.ShuffleNetV2([1, 1, 1], [8, 16, 24, 32, 48], num_classes),
    "shufflenet_v2_block": between(lambda: shufflenetv2.InvertedResidual(16, 16, 1)),
    "densenet": _densenet,
    "densenet_block": between(lambda: densenet._DenseBlock(2, 16, 2, 8, 0.0), channels=32),
    "squeezenet_block": between(lambda: squeezenet.Fire(16, 8, 16, 16), channels=32),
    "googlenet_block": between(lambda: Inception(16, 8, 8, 16, 4, 8, 8), channels=40),
    "inception_block": between(lambda: inception.InceptionA(16, 8), channels=232),
    "regnet": _regnet,
    "convnext": _convnext,
    "vit": _vit,
    "swin": _swin,
    "swin_v2": _swin_v2,
    "maxvit": _maxvit,
    "vgg": _vgg,
    "alexnet": _alexnet,
    "lenet": _lenet,
    "mixer": between(_Mixer),
    "gated_perceptron": between(_GatedPerceptron),
    "conv_mixer": between(_conv_mixer),
    "ghost": between(_Ghost),
    "repvgg": between(_RepVGG),
    "cross_stage": between(_CrossStage),
    "metaformer": between(_MetaFormer),
}
