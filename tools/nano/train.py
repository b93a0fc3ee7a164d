#!/usr/bin/env python3
"""Trains the bundled model: streams.npz -> models/nano/model.safetensors, quantisation-aware, on one GPU.

    python3 train.py --model ../../models/nano --streams streams.npz --minutes 8 --out OUT

Writes OUT/{config.json, tokenizer.json, generation_config.json, model.safetensors}, OUT/loss.csv, OUT/summary.json
and OUT/samples.md. The length of the run is given in minutes; curriculum.py says what happens when. The seed fixes
data and initial weights; GPU sums are not ordered, so two runs agree closely but not bit for bit. `--resume FILE`
continues from the state that `--state FILE` wrote at the end of a run; `--init DIR` starts from an exported model.
"""
import argparse
import contextlib
import json
import math
import os
import shutil
import time

import torch
import torch.nn.functional as F

import checkpoint
import model as nano
from curriculum import STAGES, stage_at
from data import Streams
from optim import make_optimizers

MTP_WEIGHT, INDEX_WEIGHT, BALANCE_SPEED = 0.3, 0.2, 1e-3
WARM_UP, DECAY_FROM, FLOOR = 0.02, 0.35, 0.02


def token_loss(h, head, targets):
    return F.cross_entropy(F.linear(h, head).float(), targets, reduction="none")


def learning_rate(fraction):
    """Factor on the peak: linear up, flat, cosine down."""
    if fraction < WARM_UP:
        return fraction / WARM_UP
    x = min(1.0, max(0.0, (fraction - DECAY_FROM) / (1 - DECAY_FROM)))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * x))


def losses_of(model, loss_of, ids, weights, sparse):
    """Trunk, MTP and indexer loss of rows of T + 2 ids, and the expert loads."""
    length = ids.shape[1] - 2
    h, m, head, loads, index = model(ids[:, :length], ids[:, 1:length + 1], sparse=sparse)
    w1, w2 = weights[:, 1:length + 1].reshape(-1), weights[:, 2:].reshape(-1)
    trunk = (loss_of(h, head, ids[:, 1:length + 1].reshape(-1)) * w1).sum() / w1.sum()
    mtp = (loss_of(m, head, ids[:, 2:].reshape(-1)) * w2).sum() / w2.sum()
    return trunk, mtp, torch.stack(index).sum(), loads


@contextlib.contextmanager
def uncompiled(model):
    """The pieces as plain functions, for the odd shapes of evaluation."""
    compiled = model.pieces
    model.pieces = type(compiled)(**{name: getattr(nano, name) for name in vars(compiled)})
    yield
    model.pieces = compiled


@torch.no_grad()
def held_out(model, streams, name="held", rows=64, length=2048, per_call=16):
    """Bits per byte (plain text) or loss per answer token (chats) on files that were never trained on, and the
    share of MTP guesses that agree with the trunk's own most likely next-but-one token."""
    part = streams.parts[name]
    rows = min(rows, (len(part["ids"]) - 2) // length)
    nats = size = weight = agree = count = 0.0
    step = (len(part["ids"]) - length - 2) // max(1, rows - 1)
    for at in range(0, rows, per_call):
        start = torch.arange(at, min(at + per_call, rows), device=streams.device) * step
        index = start[:, None] + torch.arange(length + 2, device=streams.device)
        ids, w = part["ids"][index].long(), part["weights"][index].float()
        h, m, head, _, _ = model(ids[:, :length], ids[:, 1:length + 1], sparse=True)
        target = ids[:, 1:length + 1].reshape(-1)
        logits = F.linear(h, head).float()
        ce = F.cross_entropy(logits, target, reduction="none")
        use = (w[:, 1:length + 1].reshape(-1) == 1.0).float() if name != "held" else torch.ones_like(ce)
        nats, weight = nats + (ce * use).sum().item(), weight + use.sum().item()
        size += (streams.token_bytes[target] * use).sum().item()
        trunk = logits.argmax(-1).reshape(-1, length)
        guess = F.linear(m, head).float().argmax(-1).reshape(-1, length)
        # The trunk's choice for token i + 2 is known where its choice for i + 1 was the real token.
        real = (trunk[:, :-1] == ids[:, 1:length])
        agree += ((guess[:, :-1] == trunk[:, 1:]) & real).sum().item()
        count += real.sum().item()
    return {"nats_per_token": nats / weight, "bits_per_byte": nats / math.log(2) / size, "tokens": int(weight),
            "mtp_agreement": agree / max(1.0, count)}


@torch.no_grad()
def generate(model, prompts, new_tokens, eos, temperature, seed=1):
    """Continues prompts (lists of ids) in one batch; recomputes everything for each token. Returns lists of ids."""
    device = model.embed.device
    longest = max(map(len, prompts)) + new_tokens
    ids = torch.zeros(len(prompts), -(-longest // 128) * 128 + 1, dtype=torch.long, device=device)
    ends = torch.tensor([len(p) for p in prompts], device=device)
    for row, prompt in enumerate(prompts):
        ids[row, :len(prompt)] = torch.tensor(prompt, device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    gen = torch.Generator(device).manual_seed(seed)
    rows = torch.arange(len(prompts), device=device)
    at = ends.clone()
    for _ in range(new_tokens):
        h, _, head, _, _ = model(ids[:, :-1], ids[:, 1:], sparse=True)
        logits = F.linear(h.unflatten(0, (len(prompts), -1))[rows, at - 1], head).float()
        if temperature:
            token = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=gen)[:, 0]
        else:
            token = logits.argmax(-1)
        ids[rows[~done], at[~done]] = token[~done]
        at += (~done).long()
        done |= token == eos
        if bool(done.all()):
            break
    return [ids[r, ends[r]:at[r]].tolist() for r in range(len(prompts))]


def write_samples(model, folder, tokenizer_path, prompts_path):
    """Answers to the prompts of prompts.json, greedy and sampled, with the pieces uncompiled (shapes vary)."""
    from data import Encoder
    import samples as s
    encoder = Encoder(tokenizer_path)
    with open(prompts_path, encoding="utf-8") as f:
        prompts = json.load(f)
    special = encoder.special
    ids = [[special[s.BOS[0]], special[s.USER[0]]] + encoder.texts([p])[0] +
           [special[s.ASSISTANT[0]], special[s.END_THINK[0]]] for p in prompts]
    eos = special[s.EOS[0]]
    greedy = generate(model, ids, 160, eos, 0.0)
    drawn = generate(model, ids, 160, eos, 0.7)
    with open(os.path.join(folder, "samples.md"), "w", encoding="utf-8") as f:
        f.write("# What the bundled model writes\n\nWritten by `tools/nano/train.py` after training, non-think mode, at "
                "most 160 tokens.\n")
        for prompt, *answers in zip(prompts, greedy, drawn):
            f.write(f"\n## Prompt\n\n````\n{prompt}\n````\n")
            for how, answer in zip(("greedy", "temperature 0.7"), answers):
                stop = "" if answer and answer[-1] == eos else " (cut off)"
                text = encoder.tokenizer.decode(answer, skip_special_tokens=True)
                f.write(f"\n{how}{stop}:\n\n````\n{text}\n````\n")
    print("greedy answers that end by themselves:", sum(a[-1:] == [eos] for a in greedy), "of", len(greedy), flush=True)


def warm_up(model, loss_of, device):
    """Compiles every shape of the curriculum, forward and backward, on random ids."""
    for stage in sorted({(s.length, s.rows, s.sparse) for s in STAGES}):
        length, rows, sparse = stage
        begin = time.time()
        ids = torch.randint(256, model.c.vocab_size - 64, (rows, length + 2), device=device)
        for _ in range(2):
            trunk, mtp, index, _ = losses_of(model, loss_of, ids, torch.ones_like(ids, dtype=torch.float), sparse)
            (trunk + MTP_WEIGHT * mtp + INDEX_WEIGHT * index).backward()
        torch.cuda.synchronize()
        model.zero_grad(set_to_none=True)
        print(f"compiled {length} x {rows} sparse={sparse} in {time.time() - begin:.1f} s", flush=True)


class Step:
    """Losses and gradients of one batch of one stage. On a GPU the whole of it is recorded once as a CUDA graph and
    replayed: a step is thousands of small kernels, and starting them from Python takes longer than running them."""

    pool = None

    def __init__(self, model, loss_of, stage, graph):
        self.model, self.loss_of, self.stage, self.graph = model, loss_of, stage, None
        if graph:
            self.record()

    def run(self, ids, weights):
        self.model.fp4_weights = self.stage.fp4
        trunk, mtp, index, loads = losses_of(self.model, self.loss_of, ids, weights, self.stage.sparse)
        (trunk + MTP_WEIGHT * mtp + INDEX_WEIGHT * index).backward()
        return trunk.detach(), mtp.detach(), index.detach(), loads

    def record(self):
        device = self.model.embed.device
        self.ids = torch.zeros(self.stage.rows, self.stage.length + 2, dtype=torch.long, device=device)
        self.weights = torch.ones_like(self.ids, dtype=torch.float)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.model.zero_grad(set_to_none=True)
                self.run(self.ids, self.weights)
        torch.cuda.current_stream().wait_stream(side)
        self.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=Step.pool):
            self.out = self.run(self.ids, self.weights)
        Step.pool = graph.pool()
        self.grads = [p.grad for p in self.model.parameters()]
        self.graph = graph

    def __call__(self, ids, weights):
        if self.graph is None:
            self.model.zero_grad(set_to_none=True)
            return self.run(ids, weights)
        self.ids.copy_(ids)
        self.weights.copy_(weights)
        self.graph.replay()
        for p, g in zip(self.model.parameters(), self.grads):
            p.grad = g
        return self.out


def make_step(model, loss_of, stage, graph):
    try:
        return Step(model, loss_of, stage, graph)
    except RuntimeError as error:
        print("no CUDA graph, slower:", str(error).split("\n")[0], flush=True)
        torch.cuda.synchronize()
        return Step(model, loss_of, stage, False)


def train(args):
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(args.seed)
    device = args.device
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as f:
        config = nano.config_of(json.load(f))
    model = nano.Nano(config, seed=args.seed)
    if args.init:
        checkpoint.load(model, args.init)
    model.to(device)
    optimizers = make_optimizers(model, args.adam_lr, args.muon_lr, args.decay)
    spent = tokens = step = 0
    if args.resume:
        state = torch.load(args.resume, map_location=device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        spent, tokens, step = state["seconds"], state["tokens"], state["step"]
    loss_of = token_loss
    if device == "cuda" and not args.eager:
        torch._dynamo.config.recompile_limit = 64
        model.compile()
        loss_of = torch.compile(token_loss, dynamic=False)
        warm_up(model, loss_of, device)
    while not os.path.exists(args.streams):
        time.sleep(0.5)
    streams = Streams(args.streams, device, args.seed + step)
    print("parameters", sum(p.numel() for p in model.parameters()) / 1e6, "M; streams ready", flush=True)

    total = args.minutes * 60
    stop_at = min(total, args.until * 60) if args.until else total
    log = open(os.path.join(args.out, "loss.csv"), "a" if args.resume else "w", encoding="utf-8")
    if not args.resume:
        log.write("step,seconds,tokens,length,rate,loss,mtp_loss,index_loss,load_spread,held_bits_per_byte\n")
    begin = time.time() - spent
    sums, since, last_tokens, last_time = torch.zeros(4, device=device), 0, tokens, time.time()
    elapsed, next_eval, stage = spent, spent + total / 8, None
    while elapsed < stop_at:
        fraction = elapsed / total
        if stage_at(fraction) is not stage:
            stage = stage_at(fraction)
            one_step = make_step(model, loss_of, stage, device == "cuda" and not args.no_graph)
        factor = learning_rate(fraction)
        ids, weights = streams.batch(stage.mixture, stage.rows, stage.length)
        trunk, mtp, index, loads = one_step(ids, weights)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        model.balance(loads, BALANCE_SPEED * factor)
        spread = loads[config.num_hash_layers:].max(-1).values.mean() / loads.mean()
        sums += torch.stack([trunk, mtp, index, spread])
        step, since, tokens = step + 1, since + 1, tokens + stage.rows * stage.length
        if since == args.log_every:
            values = (sums / since).tolist()  # waits for the device: the clock below is real
            elapsed = time.time() - begin
            if not all(map(math.isfinite, values)):
                raise SystemExit(f"loss is not finite at step {step}")
            held = ""
            if elapsed >= next_eval and elapsed < 0.97 * total:
                model.fp4_weights = True
                with uncompiled(model):
                    held = f"{held_out(model, streams, rows=16)['bits_per_byte']:.4f}"
                next_eval += total / 8
            log.write(f"{step},{elapsed:.1f},{tokens},{stage.length},{factor:.4f}," +
                      ",".join(f"{v:.4f}" for v in values) + f",{held}\n")
            log.flush()
            if step % (args.log_every * 5) == 0 or held:
                rate = (tokens - last_tokens) / (time.time() - last_time)
                print(f"step {step} {elapsed:.0f}s {tokens / 1e6:.1f}M tokens {rate / 1e3:.0f}K/s length {stage.length} "
                      f"loss {values[0]:.3f} mtp {values[1]:.3f} index {values[2]:.3f} load {values[3]:.2f} {held}",
                      flush=True)
                last_tokens, last_time = tokens, time.time()
            sums.zero_()
            since = 0
    log.close()
    torch.cuda.synchronize() if device == "cuda" else None
    if args.state:
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                    "seconds": time.time() - begin, "tokens": tokens, "step": step}, args.state)
    with uncompiled(model):
        finish(args, model, streams, {"steps": step, "tokens": tokens, "seconds": round(time.time() - begin, 1),
                                  "parameters": sum(p.numel() for p in model.parameters()), "seed": args.seed,
                                  "torch": torch.__version__,
                                  "device": torch.cuda.get_device_name() if device == "cuda" else device})


def finish(args, model, streams, summary):
    model.eval()
    model.fp4_weights = True
    summary["bytes"] = checkpoint.save(model, args.out)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(os.path.join(args.model, name), args.out)
    for name, act_quant in (("native_activations", True), ("exact_activations", False)):
        model.act_quant = act_quant
        summary[name] = {kind: held_out(model, streams, kind, rows=48) for kind in ("held", "held_chat")}
    with open(os.path.join(args.out, "summary.json"), "w", encoding="utf-8") as f:
        json.dump(summary, f, indent=1)
    print(json.dumps(summary), flush=True)
    if args.prompts:
        write_samples(model, args.out, os.path.join(args.model, "tokenizer.json"), args.prompts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with config.json, tokenizer.json")
    parser.add_argument("--streams", required=True, help="from data.py; waited for if it is still being written")
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, required=True, help="length of the whole schedule")
    parser.add_argument("--until", type=float, help="stop at this minute of the schedule (then --resume)")
    parser.add_argument("--prompts", help="prompts.json: write samples.md")
    parser.add_argument("--init", help="start from this exported model")
    parser.add_argument("--resume")
    parser.add_argument("--state")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--no-graph", action="store_true", help="do not record CUDA graphs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--log-every", type=int, default=20)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
