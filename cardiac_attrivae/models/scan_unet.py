"""The network that outlines the heart in whole pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from ..schema import HEART


class ScanUNet(nn.Module):
    """A U-Net of MONAI's that sees a slice with its neighbours and standardises them by itself.

    Args:
        filters: Channels of each level; each level but the first halves the picture.
        context: Slices that are seen at once, the one to outline in the middle.

    Example:
        >>> network = ScanUNet(filters=(8, 16, 16))
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 4, 32, 32])
    """

    def __init__(self, filters: Sequence[int] = (16, 32, 64, 128, 192), context: int = 3) -> None:
        super().__init__()
        self.context = context
        halvings = [2] * (len(filters) - 1)
        self.unet = DynUNet(
            spatial_dims=2, in_channels=context, out_channels=len(HEART) + 1,
            kernel_size=[3] * len(filters), strides=[1, *halvings], upsample_kernel_size=halvings,
            filters=list(filters), norm_name="batch",
        )  # fmt: skip
        # the same layers a second time, nested for deep supervision: a file holds each weight once
        del self.unet.skip_layers

    def forward(self, image: Tensor) -> Tensor:
        """Turns slices with their neighbours, (N, context, H, W) in any unit, into logits of
        background, LV, myocardium and RV, (N, 4, H, W)."""
        deviation, mean = torch.std_mean(image, dim=(1, 2, 3), keepdim=True)
        unet, skipped = self.unet, []
        field = unet.input_block((image - mean) / (deviation + 1e-5))
        for down in (*unet.downsamples, unet.bottleneck):
            skipped.append(field)
            field = down(field)
        for up in unet.upsamples:
            field = up(field, skipped.pop())
        return unet.output_block(field)


def with_neighbours(slices: Tensor, context: int) -> Tensor:
    """Puts the slices of a stack (Z, H, W) before and after each slice into its channels, (Z,
    context, H, W); the ends are repeated. ``context`` is odd.

    Example:
        >>> with_neighbours(torch.arange(3.0).reshape(3, 1, 1), 3)[:, :, 0, 0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 2.0]]
    """
    count, half = len(slices), context // 2
    rows = torch.arange(count)[:, None] + torch.arange(-half, half + 1)
    return slices[rows.clamp(0, count - 1)]
