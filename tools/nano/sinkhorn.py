"""Sinkhorn normalisation of the hyper-connection mixing matrices (spec 6.2), forward and backward.

`sinkhorn(a, iters, eps)` takes [N, 4, 4] logits and returns the doubly stochastic mixing matrices. On a GPU
two Triton kernels do the 2 * iters - 1 normalisations in registers; elsewhere plain tensor arithmetic does.
The backward pass walks the normalisations in reverse: each is y = x / s, so x = y * s needs only the sums s.
"""
import torch

try:
    import triton
    import triton.language as tl
    HAVE_TRITON = True
except ImportError:
    HAVE_TRITON = False


def sinkhorn_plain(a, iters, eps):
    a = torch.softmax(a, -1) + eps
    a = a / (a.sum(-2, keepdim=True) + eps)
    for _ in range(iters - 1):
        a = a / (a.sum(-1, keepdim=True) + eps)
        a = a / (a.sum(-2, keepdim=True) + eps)
    return a


if HAVE_TRITON:

    @triton.jit
    def forward_kernel(a_ptr, out_ptr, sums_ptr, n, eps, ITERS: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        i = tl.arange(0, 4)
        inside = (row < n)[:, None, None]
        at = row[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]
        per_row = row[:, None, None] * 4 + i[None, :, None]
        per_col = row[:, None, None] * 4 + i[None, None, :]
        a = tl.load(a_ptr + at, mask=inside, other=0.0)
        a = tl.exp(a - tl.max(a, axis=2, keep_dims=True))
        a = a / tl.sum(a, axis=2, keep_dims=True) + eps
        s = tl.sum(a, axis=1, keep_dims=True) + eps
        tl.store(sums_ptr + per_col, s, mask=inside)
        a = a / s
        for k in range(ITERS - 1):
            s = tl.sum(a, axis=2, keep_dims=True) + eps
            tl.store(sums_ptr + (2 * k + 1) * n * 4 + per_row, s, mask=inside)
            a = a / s
            s = tl.sum(a, axis=1, keep_dims=True) + eps
            tl.store(sums_ptr + (2 * k + 2) * n * 4 + per_col, s, mask=inside)
            a = a / s
        tl.store(out_ptr + at, a, mask=inside)

    @triton.jit
    def backward_kernel(a_ptr, y_ptr, g_ptr, sums_ptr, da_ptr, n, ITERS: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        i = tl.arange(0, 4)
        inside = (row < n)[:, None, None]
        at = row[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]
        per_row = row[:, None, None] * 4 + i[None, :, None]
        per_col = row[:, None, None] * 4 + i[None, None, :]
        y = tl.load(y_ptr + at, mask=inside, other=0.0)
        g = tl.load(g_ptr + at, mask=inside, other=0.0)
        for back in range(ITERS - 1):
            k = ITERS - 2 - back
            s = tl.load(sums_ptr + (2 * k + 2) * n * 4 + per_col, mask=inside, other=1.0)
            g = (g - tl.sum(g * y, axis=1, keep_dims=True)) / s
            y = y * s
            s = tl.load(sums_ptr + (2 * k + 1) * n * 4 + per_row, mask=inside, other=1.0)
            g = (g - tl.sum(g * y, axis=2, keep_dims=True)) / s
            y = y * s
        s = tl.load(sums_ptr + per_col, mask=inside, other=1.0)
        g = (g - tl.sum(g * y, axis=1, keep_dims=True)) / s
        a = tl.load(a_ptr + at, mask=inside, other=0.0)
        a = tl.exp(a - tl.max(a, axis=2, keep_dims=True))
        p = a / tl.sum(a, axis=2, keep_dims=True)
        tl.store(da_ptr + at, p * (g - tl.sum(g * p, axis=2, keep_dims=True)), mask=inside)

    BLOCK = 64

    @torch.library.custom_op("nano::sinkhorn_forward", mutates_args=())
    def sinkhorn_forward(a: torch.Tensor, iters: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        a = a.contiguous()
        n = a.shape[0]
        out = torch.empty_like(a)
        sums = torch.empty((2 * iters - 1, n, 4), dtype=torch.float32, device=a.device)
        forward_kernel[(triton.cdiv(n, BLOCK),)](a, out, sums, n, eps, ITERS=iters, BLOCK=BLOCK)
        return out, sums

    @sinkhorn_forward.register_fake
    def _(a, iters, eps):
        return (torch.empty(a.shape, dtype=a.dtype, device=a.device),
                torch.empty((2 * iters - 1, a.shape[0], 4), dtype=torch.float32, device=a.device))

    @torch.library.custom_op("nano::sinkhorn_backward", mutates_args=())
    def sinkhorn_backward(a: torch.Tensor, y: torch.Tensor, g: torch.Tensor, sums: torch.Tensor,
                          iters: int) -> torch.Tensor:
        a, y, g = a.contiguous(), y.contiguous(), g.contiguous()
        da = torch.empty_like(a)
        n = a.shape[0]
        backward_kernel[(triton.cdiv(n, BLOCK),)](a, y, g, sums, da, n, ITERS=iters, BLOCK=BLOCK)
        return da

    @sinkhorn_backward.register_fake
    def _(a, y, g, sums, iters):
        return torch.empty(a.shape, dtype=a.dtype, device=a.device)

    def _save(ctx, inputs, output):
        a, iters, _ = inputs
        ctx.save_for_backward(a, output[0], output[1])
        ctx.iters = iters

    def _backward(ctx, g, g_sums):
        a, y, sums = ctx.saved_tensors
        return sinkhorn_backward(a, y, g, sums, ctx.iters), None, None

    sinkhorn_forward.register_autograd(_backward, setup_context=_save)


def sinkhorn(a, iters, eps):
    if HAVE_TRITON and a.is_cuda and a.dtype == torch.float32:
        return sinkhorn_forward(a, iters, eps)[0]
    return sinkhorn_plain(a, iters, eps)
