"""Trains the target from nothing on the grammar's text, or the draft on the target's opinion of it.

    python3 train.py target|draft --dir BUILD

Resumes from BUILD/NAME.ckpt, which is written every 50 steps. Step s always sees the same text, so that an
interrupted run ends as an uninterrupted one does. The first part learns from the plain grammar in steps of 4,096
tokens, the second from the grammar with varied questions in steps of 2,048, the third hears mostly the beginnings of
answers, which weigh more: what an answer is about is decided there. Some steps have rows of the whole context (512), the
others of 256.
Hidden matrices follow Muon (K. Jordan, 2024: momentum made orthogonal by a Newton-Schulz iteration), the rest AdamW.
"""
import argparse
import multiprocessing
import os
import time

import torch
import torch.nn.functional as F

import data
import model
from tokenizer import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = {"target": 1_000_000, "draft": 2_000_000}
PARTS = {"target": (350, 450), "draft": (0, 9999)}           # the steps where the second and the third part begin
RATE, EMBED_RATE = 0.02, {"target": 0.004, "draft": 0.01}
TEACHER_FROM = 940                                          # before this step the draft learns from the text alone
# The rate's course: (step, factor), straight lines between.
COURSE = {"target": ((0, 0.03), (30, 1), (349, 1), (350, 0.7), (510, 0.7), (550, 0.62), (700, 0.62), (750, 0.52),
                     (920, 0), (930, 0.35), (1000, 0.206), (1050, 0)),
          "draft": ((0, 0.03), (20, 1), (650, 1), (1000, 0))}
LONG = {"target": ((828, 920), (1030, 1050)), "draft": ((900, 940),)}     # steps with rows of the whole context
EMA = 0.99
WORKERS = 2                                                 # processes; each takes half of the rows


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
        self.momentum = [torch.zeros_like(p).share_memory_() for p in params]

    def step(self, rate, share):
        """share: which of the blocks this worker updates."""
        for i, (p, n, m) in enumerate(zip(self.params, self.pieces, self.momentum)):
            if i // 4 % WORKERS != share:
                continue
            m.lerp_(p.grad, 0.05)
            update = p.grad.lerp(m, 0.95)
            for w, u in zip(p.data.chunk(n), update.chunk(n)):
                w.mul_(1 - 0.02 * rate)
                w.add_(orthogonal(u), alpha=-rate * max(1.0, w.shape[0] / w.shape[1]) ** 0.5)


def shape(name, step):
    """-> rows and their length in this step, and the part of training (data.py)."""
    part = sum(step >= begins for begins in PARTS[name])
    length = 512 if any(a <= step < b for a, b in LONG[name]) else 256
    return (2048 if part else 4096) // length, length, part


def course(name, step):
    points = COURSE[name]
    for (a, x), (b, y) in zip(points, points[1:]):
        if step < b:
            return x + (y - x) * (step - a) / (b - a)
    return 0.0


def loss_of(logits, targets, scale, total):
    """This worker's part of the mean; total: the weights of the whole step."""
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=data.IGNORE, reduction="none")
    return (each * scale.flatten()).sum() / total


def distance(logits, opinion, targets, scale, total):
    """How far the draft is from the teacher's opinion (Kullback-Leibler)."""
    each = F.kl_div(F.log_softmax(logits, -1), F.log_softmax(opinion, -1), reduction="none", log_target=True).sum(-1)
    return (each * scale * (targets != data.IGNORE)).sum() / total


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
    args = args.parse_args()
    name, steps = args.name, COURSE[args.name][-1][0]
    os.makedirs(args.dir, exist_ok=True)
    torch.set_flush_denormal(True)                          # denormals cost a factor of five here
    torch.set_num_threads(1)                                # two processes, not two threads: they meet once a step
    torch.manual_seed(SEED[name])
    tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
    net = model.build(name, len(tok.tokens))
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
        ema, step = saved["ema"], saved["step"]
        for m, old in zip(muon.momentum, saved["muon"]):
            m.copy_(old)
    net.share_memory()
    params = list(net.parameters())
    gradients = [[torch.zeros_like(p).share_memory_() for p in params] for _ in range(WORKERS)]
    losses = torch.zeros(WORKERS).share_memory_()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WORKERS)
    def work(rank):
        nonlocal step
        docs, mean, seen, began = data.held_out(tok, 60), None, 0, time.time()
        if rank == 0:
            print("%s: %d parameters, from step %d to %d" % (name, sum(p.numel() for p in params), step, steps), flush=True)
        while step < steps:
            rows, length, part = shape(name, step)
            rate = course(name, step)
            ids, targets, scale = data.batch(tok, SEED[name] + step, rows, length, length == 512, part)
            total = (scale * (targets != data.IGNORE)).sum()
            ids, targets, scale = ids[rank::WORKERS], targets[rank::WORKERS], scale[rank::WORKERS]
            logits = net(ids)
            loss = loss_of(logits, targets, scale, total)
            losses[rank] = loss.item()
            if teacher and step >= TEACHER_FROM:
                with torch.no_grad():
                    opinion = teacher(ids)
                loss = 0.2 * loss + distance(logits, opinion, targets, scale, total)
            loss.backward()
            for p, g in zip(params, gradients[rank]):
                g.copy_(p.grad)
            barrier.wait()
            for i, p in enumerate(params):
                torch.add(gradients[0][i], gradients[1][i], out=p.grad)
            muon.step(RATE * rate, rank)
            if rank == 0:
                for group in adam.param_groups:
                    group["lr"] = EMBED_RATE[name] * rate
                adam.step()
            now = losses.sum().item()
            barrier.wait()
            net.zero_grad()
            step += 1
            seen += rows * length
            if rank:
                continue
            for k, v in net.state_dict().items():
                ema[k].lerp_(v, 1 - min(EMA, step / (step + 10)))
            mean = now if mean is None else mean + 0.05 * (now - mean)
            if step % 10 == 0:
                print("step %d loss %.4f  %.0f tokens/s" % (step, mean, seen / (time.time() - began)), flush=True)
            if step % 50 == 0 or step == steps:
                saved = {"net": net.state_dict(), "adam": adam.state_dict(), "muon": muon.momentum, "ema": ema, "step": step}
                torch.save(saved, path + ".part")
                os.replace(path + ".part", path)
            if step % 200 == 0 or step == steps:
                judged = model.build(name, len(tok.tokens))
                judged.load_state_dict(ema)
                print("step %d held-out loss %.4f" % (step, held_out_loss(judged, docs)), flush=True)

    for rank in range(1, WORKERS):
        context.Process(target=work, args=(rank,), daemon=True).start()
    work(0)


if __name__ == "__main__":
    main()
