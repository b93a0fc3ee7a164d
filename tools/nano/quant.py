"""Number formats of a V4 checkpoint, as tensor arithmetic: E8M0 scales, E4M3 and E2M1 values.

Every function here returns values, not codes, and runs unchanged on a CPU, on a GPU and under torch.compile.
checkpoint.py turns the values into bytes. Formats: spec/architecture.md A.1-A.3, 7.3, 7.4.
"""
import torch


def pow2_ceil(a):
    """The smallest power of two >= a (a positive and normal), from the bits of the float."""
    bits = a.contiguous().view(torch.int32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(torch.int32)
    return (exponent << 23).view(torch.float32)


def pow2_floor(a):
    bits = a.contiguous().view(torch.int32)
    return ((bits >> 23) << 23).view(torch.float32)


def round_e4m3(x):
    """Nearest E4M3 value, ties to even, saturating at 448."""
    step = pow2_floor(x.abs().clamp(min=2.0**-6)) * 0.125
    return (torch.round(x / step) * step).clamp(-448.0, 448.0)


def round_e2m1(x):
    """Nearest of 0, .5, 1, 1.5, 2, 3, 4, 6 with its sign, ties to the even code, saturating at 6."""
    step = pow2_floor(x.abs().clamp(1.0, 4.0)) * 0.5
    return (torch.round(x / step) * step).clamp(-6.0, 6.0)


def fp8_blocks(x, block):
    """E4M3 round trip in blocks of `block` along the last dimension (activations, KV rows)."""
    shape = x.shape
    v = x.float().reshape(shape[:-1] + (shape[-1] // block, block))
    scale = pow2_ceil(v.abs().amax(-1, keepdim=True).clamp(min=1e-4) * (1.0 / 448.0))
    return (round_e4m3(v / scale) * scale).reshape(shape)


def fp4_blocks(x, block):
    """E2M1 round trip in blocks of 32 (index queries and keys)."""
    shape = x.shape
    v = x.float().reshape(shape[:-1] + (shape[-1] // block, block))
    scale = pow2_ceil(v.abs().amax(-1, keepdim=True).clamp(min=6.0 * 2.0**-126) * (1.0 / 6.0))
    return (round_e2m1(v / scale) * scale).reshape(shape)


def straight_through(x, rounding, block):
    """The rounded value forward, the gradient of x backward."""
    with torch.no_grad():
        change = rounding(x, block).to(x.dtype) - x
    return x + change


def weight_scale_fp8(w):
    """E8M0 scales of FP8 weights [..., out, in]: one per 128 x 128 block, [..., ceil(out/128), ceil(in/128)]."""
    rows, cols = w.shape[-2], w.shape[-1]
    padded = torch.nn.functional.pad(w.float(), (0, -cols % 128, 0, -rows % 128))
    blocks = padded.reshape(w.shape[:-2] + (-(-rows // 128), 128, -(-cols // 128), 128))
    return pow2_ceil(blocks.abs().amax((-3, -1)).clamp(min=2.0**-100) * (1.0 / 448.0))


def spread_fp8_scale(scale, rows, cols):
    return scale.repeat_interleave(128, -2).repeat_interleave(128, -1)[..., :rows, :cols]


def weight_scale_fp4(w):
    """E8M0 scales of FP4 weights [..., out, in]: one per 32 inputs, [..., out, in/32].

    Two exponents are tried for each group: the one that fits its largest value, and half of it, which clips
    the largest value and rounds all others finer. The smaller squared error wins.
    """
    v = w.float().reshape(w.shape[:-1] + (w.shape[-1] // 32, 32))
    fits = pow2_ceil(v.abs().amax(-1, keepdim=True).clamp(min=2.0**-100) * (1.0 / 6.0))
    error = [((round_e2m1(v / s) * s - v) ** 2).sum(-1, keepdim=True) for s in (fits, fits * 0.5)]
    return torch.where(error[1] < error[0], fits * 0.5, fits).squeeze(-1)


def round_weight_fp8(w):
    scale = spread_fp8_scale(weight_scale_fp8(w), w.shape[-2], w.shape[-1])
    return round_e4m3(w.float() / scale) * scale


def round_weight_fp4(w):
    scale = weight_scale_fp4(w).repeat_interleave(32, -1)
    return round_e2m1(w.float() / scale) * scale


class RoundedWeight(torch.autograd.Function):
    """A master weight as the checkpoint will hold it, exactly; the gradient passes straight through."""

    @staticmethod
    def forward(ctx, master, rounding, dtype):
        return rounding(master).to(dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad.float(), None, None
