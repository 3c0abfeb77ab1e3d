"""Trains the target from nothing on the grammar's text, or the draft on the target's opinion of it.

    python3 train.py target|draft --dir BUILD [--steps N]

Resumes from BUILD/NAME.ckpt, which is written every 50 steps. Step s always sees the same text, so that an
interrupted run ends as an uninterrupted one does. The rate is constant, then falls to nothing over the last 40 %;
the last 15 % of the steps have rows of the whole context (512), before that of 256.
Hidden matrices follow Muon (K. Jordan, 2024: momentum made orthogonal by a Newton-Schulz iteration), the rest AdamW.
"""
import argparse
import math
import os
import time

import torch
import torch.nn.functional as F

import data
import model
from tokenizer import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = {"target": 1_000_000, "draft": 2_000_000}
STEPS = {"target": 1600, "draft": 3000}
TOKENS = {"target": 4096, "draft": 4096}                    # a step
RATE = {"target": 0.02, "draft": 0.02}
EMA = 0.99


def orthogonal(g):
    """The nearest half-orthogonal matrix to g, roughly: five steps of a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


class Muon:
    def __init__(self, params, pieces):
        self.params, self.pieces = params, pieces           # pieces: how many matrices are stacked in each
        self.momentum = [torch.zeros_like(p) for p in params]

    def step(self, rate):
        for p, n, m in zip(self.params, self.pieces, self.momentum):
            m.lerp_(p.grad, 0.05)
            update = p.grad.lerp(m, 0.95)
            for w, u in zip(p.data.chunk(n), update.chunk(n)):
                w.mul_(1 - 0.02 * rate)
                w.add_(orthogonal(u), alpha=-rate * max(1.0, w.shape[0] / w.shape[1]) ** 0.5)


def loss_of(logits, targets, scale):
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=data.IGNORE, reduction="none")
    return (each * scale.flatten()).sum() / (scale * (targets != data.IGNORE)).sum()


@torch.no_grad()
def held_out_loss(net, docs):
    """Nats a token over whole documents, each alone, BOS given."""
    total = count = 0
    for ids in docs:
        ids = torch.tensor(ids)
        total += F.cross_entropy(net(ids[None, :-1])[0], ids[1:], reduction="sum").item()
        count += len(ids) - 1
    return total / count


def main():
    args = argparse.ArgumentParser()
    args.add_argument("name", choices=list(model.CONFIGS))
    args.add_argument("--dir", default=os.path.join(HERE, "build"))
    args.add_argument("--steps", type=int)
    args = args.parse_args()
    name, steps = args.name, args.steps or STEPS[args.name]
    os.makedirs(args.dir, exist_ok=True)
    torch.set_flush_denormal(True)                          # denormals cost a factor of five here
    torch.manual_seed(SEED[name])
    tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
    net = model.build(name, len(tok.tokens))
    print(name, sum(p.numel() for p in net.parameters()), "parameters", flush=True)
    teacher = None
    if name == "draft":
        teacher = model.build("target", len(tok.tokens))
        teacher.load_state_dict(torch.load(os.path.join(args.dir, "target.ckpt"))["ema"])
    hidden = [p for n, p in net.named_parameters() if p.ndim == 2 and "embed" not in n]
    pieces = [3 if "qkv" in n else 2 if "gate_up" in n else 1
              for n, p in net.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in net.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(hidden, pieces)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    ema = {k: v.clone() for k, v in net.state_dict().items()}
    path, step = os.path.join(args.dir, name + ".ckpt"), 0
    if os.path.exists(path):
        saved = torch.load(path)
        net.load_state_dict(saved["net"])
        adam.load_state_dict(saved["adam"])
        muon.momentum, ema, step = saved["muon"], saved["ema"], saved["step"]
        print("resumes at step", step, flush=True)
    docs = data.held_out(tok, 60)
    began, first, mean = time.time(), step, None
    while step < steps:
        length = 512 if step >= 0.85 * steps else 256
        rate = min(1.0, (step + 1) / 30, (steps - step) / (0.4 * steps))
        ids, targets, scale = data.batch(tok, SEED[name] + step, TOKENS[name] // length, length, long=length == 512)
        logits = net(ids)
        loss = loss_of(logits, targets, scale)
        total = loss
        if teacher:
            with torch.no_grad():
                opinion = F.log_softmax(teacher(ids), -1)
            keep = targets != data.IGNORE
            total = 0.2 * loss + (F.kl_div(F.log_softmax(logits, -1), opinion, reduction="none", log_target=True).sum(-1)
                                  * scale)[keep].sum() / scale[keep].sum()
        total.backward()
        muon.step(RATE[name] * rate)
        for group in adam.param_groups:
            group["lr"] = 0.004 * rate
        adam.step()
        net.zero_grad()
        step += 1
        for k, v in net.state_dict().items():
            ema[k].lerp_(v, 1 - min(EMA, step / (step + 10)))
        mean = loss.item() if mean is None else mean + 0.05 * (loss.item() - mean)
        if step % 10 == 0:
            print("step %d loss %.4f  %.0f tokens/s" % (step, mean, (step - first) * TOKENS[name] / (time.time() - began)), flush=True)
        if step % 50 == 0 or step == steps:
            saved = {"net": net.state_dict(), "adam": adam.state_dict(), "muon": muon.momentum, "ema": ema, "step": step}
            torch.save(saved, path + ".part")
            os.replace(path + ".part", path)
        if step % 250 == 0 or step == steps:
            live = {k: v.clone() for k, v in net.state_dict().items()}
            net.load_state_dict(ema)
            print("step %d held-out loss %.4f" % (step, held_out_loss(net, docs)), flush=True)
            net.load_state_dict(live)


if __name__ == "__main__":
    main()
