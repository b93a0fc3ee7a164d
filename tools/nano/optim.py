"""AdamW for tables, vectors and gates; Muon (orthogonalised momentum) for the hidden matrices, stacks at a time.

Muon as in the DeepSeek-V4 report's training: Newton-Schulz iterations turn the momentum of each matrix into its
nearest orthogonal matrix, scaled so that an update has the size of an AdamW update.
"""
import torch

MUON = {"wq_a", "wq_b", "wkv", "wo_a", "wo_b", "ex_w1", "ex_w3", "ex_w2", "sh_w1", "sh_w3", "sh_w2", "csa_wkv",
        "hca_wkv", "idx_wq_b", "idx_comp_wkv", "mtp_e_proj", "mtp_h_proj"}
NO_DECAY = ("norm", "sink", "base", "scale", "ape")


def orthogonal(g, steps=5):
    x = g.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, named, lr, momentum=0.95, decay=0.05, groups=1):
        """`groups`: wo_a holds this many matrices one above the other."""
        self.names = {p: n for n, p in named}
        self.wo_groups = groups
        super().__init__([p for _, p in named], dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(m, group["momentum"])
                parts = self.wo_groups if self.names[p] == "wo_a" else 1
                g = g.reshape(-1, p.shape[-2] // parts, p.shape[-1])
                update = orthogonal(g) * (0.2 * max(g.shape[-2:]) ** 0.5)
                p.mul_(1 - group["lr"] * group["decay"]).add_(update.reshape(p.shape), alpha=-group["lr"])


def make_optimizers(model, adam_lr, muon_lr, decay):
    named = list(model.named_parameters())
    adam = [(n, p) for n, p in named if n not in MUON]
    kept = [p for n, p in adam if any(w in n for w in NO_DECAY)]
    shrunk = [p for n, p in adam if not any(w in n for w in NO_DECAY)]
    fused = next(model.parameters()).is_cuda
    optimizers = [
        torch.optim.AdamW([{"params": shrunk, "weight_decay": decay}, {"params": kept, "weight_decay": 0.0}],
                          lr=adam_lr, betas=(0.9, 0.95), eps=1e-10, **({"fused": True} if fused else {})),
        Muon([(n, p) for n, p in named if n in MUON], muon_lr, decay=decay, groups=model.c.o_groups)]
    for o in optimizers:
        for g in o.param_groups:
            g["peak"] = g["lr"]
    return optimizers
