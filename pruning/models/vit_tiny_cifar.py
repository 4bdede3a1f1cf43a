"""A small vision transformer for CIFAR: DeiT-Ti (Touvron et al. 2021, arXiv 2012.12877, table 1).

Width 192, 12 layers of 3 heads, pre-norm, class token, learned position embeddings. DeiT-Ti has 16x16 patches of
224x224 images; here there are 4x4 patches of 32x32 images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES

IMAGE, PATCH, WIDTH, DEPTH, HEADS = 32, 4, 192, 12, 3


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, width) -> tokens (N, T, width)."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.projection(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm transformer layer: attention and a two-layer MLP, each with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, width) -> tokens (N, T, width)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VitTinyCifar(nn.Module):
    """Patch embedding, class token, learned positions, 12 layers, and a linear head on the class token."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, WIDTH, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (IMAGE // PATCH) ** 2, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, 32, 32) -> logits (N, num_classes)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(len(tokens), -1, -1), tokens), dim=1) + self.positions
        return self.head(self.norm(self.layers(tokens))[:, 0])


@ARCHITECTURES.register("vit_tiny_cifar", input="3x32x32")
def vit_tiny_cifar(num_classes: int, in_channels: int) -> nn.Module:
    """DeiT-Ti (Touvron et al. 2021): width 192, 12 layers, 3 heads, 4x4 patches of 32x32 images."""
    return VitTinyCifar(num_classes, in_channels)
