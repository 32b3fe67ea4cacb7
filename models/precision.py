"""The number format in which this machine multiplies fastest.

A processor without bfloat16 products does them one by one in software, a hundred times slower than in float32.
"""

from contextlib import AbstractContextManager

import torch


def product_dtype(device: torch.device) -> torch.dtype:
    """Of the matrix products of training; parameters, norms and losses are float32 everywhere."""
    has_bfloat16 = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def fast_products(device: torch.device) -> AbstractContextManager[object]:
    """Matrix products inside are done in `product_dtype`."""
    dtype = product_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
