"""Trains the target from nothing on the grammar's text, or the draft on the same text and the target's opinion of it.

    python3 train.py target|draft --dir BUILD [--scale F]

Resumes from BUILD/NAME.ckpt, which is written every 50 steps. Step s always sees the same text, so that an
interrupted run ends as an uninterrupted one does, bit for bit on one machine. A step has 2,048 tokens; every third has
rows of the whole context (512), the others of 256. F shortens the course, to try the whole of it in minutes.
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
SEED, TOKENS = 1_000_000, 2048                                # both learn from the same text; tokens a step
RATE, EMBED_RATE = 0.02, {"target": 0.004, "draft": 0.01}
# The rate's course: (step, factor), straight lines between.
COURSE = {"target": ((0, 0.03), (30, 1), (1000, 0.7), (1300, 0.5), (1550, 0.2222), (1551, 0.4), (1750, 0.1581),
                     (1940, 0), (1941, 0.35), (2110, 0), (2111, 0.3), (2230, 0),
                     (2231, 0.45), (2600, 0)),
          "draft": ((0, 0.03), (30, 1), (1000, 0.7), (1500, 0.5), (1800, 0.4), (2000, 0.3111), (2500, 0.15), (2650, 0))}
LATE = {"target": 1550, "draft": 2500}                      # from here on mostly questions; the draft hears the teacher
SHORT = {"target": 650, "draft": 0}                         # from this step on the blocks' products are in bfloat16
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


def shape(step):
    """-> rows and their length in this step."""
    length = 256 if step % 3 else 512
    return TOKENS // length, length


def seed(step, rank):
    """The text that a worker sees in a step; 777 and other small seeds are held out."""
    return SEED + step * WORKERS + rank


def course(points, step):
    for (a, x), (b, y) in zip(points, points[1:]):
        if step < b:
            return x + (y - x) * (step - a) / (b - a)
    return 0.0


def loss_of(logits, targets, scale):
    """This worker's part of the step's mean."""
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=data.IGNORE, reduction="none")
    return (each * scale.flatten()).sum() / scale.sum() / WORKERS


def distance(logits, opinion, scale):
    """How far the draft is from the teacher's opinion (Kullback-Leibler)."""
    each = F.kl_div(F.log_softmax(logits, -1), F.log_softmax(opinion, -1), reduction="none", log_target=True).sum(-1)
    return (each * scale).sum() / scale.sum() / WORKERS


@torch.no_grad()
def held_out_loss(net, docs):
    """Nats a token over whole documents, each alone, BOS given."""
    total = count = 0
    for ids in docs:
        ids = torch.tensor(ids)
        total += F.cross_entropy(net(ids[None, :-1])[0], ids[1:], reduction="sum").item()
        count += len(ids) - 1
    return total / count


def taught(folder, vocab, steps):
    """The target, once it has learnt all."""
    saved = torch.load(os.path.join(folder, "target.ckpt"))
    if saved["step"] < steps:
        raise SystemExit("the target is at step %d of %d: train it first, then run this again" % (saved["step"], steps))
    net = model.build("target", vocab)
    net.load_state_dict(saved["ema"])
    for block in net.blocks:
        block.short = True
    return net


def main():
    args = argparse.ArgumentParser()
    args.add_argument("name", choices=list(model.CONFIGS))
    args.add_argument("--dir", default=os.path.join(HERE, "build"))
    args.add_argument("--scale", type=float, default=1.0, help="the course's length, of the whole")
    args = args.parse_args()
    name, points = args.name, [(round(s * args.scale), x) for s, x in COURSE[args.name]]
    steps, save = points[-1][0], max(1, round(50 * args.scale))
    os.makedirs(args.dir, exist_ok=True)
    torch.set_flush_denormal(True)                          # denormals cost a factor of five here
    torch.set_num_threads(1)                                # two processes, not two threads: they meet once a step
    torch.manual_seed(SEED)
    tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
    net = model.build(name, len(tok.tokens))
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
        docs, mean, seen, began, teacher = data.held_out(tok, 60), None, 0, time.time(), None
        if rank == 0:
            print("%s: %d parameters, from step %d to %d" % (name, sum(p.numel() for p in params), step, steps), flush=True)
        while step < steps:
            rows, length = shape(step)
            rate, late = course(points, step), step >= LATE[name] * args.scale
            for block in net.blocks:
                block.short = step >= SHORT[name] * args.scale
            ids, targets, scale = data.batch(tok, seed(step, rank), rows // WORKERS, length, late)
            logits = net(ids)
            loss = loss_of(logits, targets, scale)
            losses[rank] = loss.item()
            if name == "draft" and late:
                teacher = teacher or taught(args.dir, len(tok.tokens), round(COURSE["target"][-1][0] * args.scale))
                with torch.no_grad():
                    opinion = teacher(ids)
                loss = 0.2 * loss + distance(logits, opinion, scale)
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
            seen += TOKENS
            if rank:
                continue
            for k, v in net.state_dict().items():
                ema[k].lerp_(v, 1 - min(EMA, step / (step + 10)))
            mean = now if mean is None else mean + 0.05 * (now - mean)
            if step % 10 == 0:
                print("step %d loss %.4f  %.0f tokens/s" % (step, mean, seen / (time.time() - began)), flush=True)
            if step % save == 0 or step == steps:
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
