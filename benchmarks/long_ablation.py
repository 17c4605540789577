"""What each part of the recipe is worth in a long training: dozens of TC-ResNet14 side by side on one GPU.

A port of the course's training to PyTorch: the same clips, front end, augmentations, network, optimiser and schedule
(kws/preprocess.py, kws/models.py, kws/training.py), for K networks at once, each with settings of its own. Its front end is
held against stored features of the course before it starts; its network gives Keras's logits to 1e-5 with the same weights.

    python benchmarks/long_ablation.py FOLDER OUT SECONDS [--runs 120,60,12]

FOLDER holds clips.npy (int16), noise.npy and meta.npz (labels, splits, words, mel filters, statistics); OUT gets a JSON and
the probabilities for each group of runs. Its results are in results/speech_commands_16k/long_ablation.csv: validation and
test are spoken clips of validation_list.txt and testing_list.txt after the last epoch, only_this and only_recipe the
validation clips that one of the two alone gets right (for McNemar's test).
"""

import argparse
import ast
import builtins
import json
import math
import time
import types
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
CLIP, HOP, FFT, BATCH = 16_000, 160, 512, 100
RECIPE = {
    "shift": 1_600, "gain": 0.5, "speed": 0.15, "noise": 0.1, "frames": 10, "bins": 5,
    "smoothing": 0.1, "rate": 3e-3, "decay": 1e-3, "dropout": 0.2,
}  # fmt: skip
NO_AUGMENTATION = {"shift": 0, "gain": 0.0, "speed": 0.0, "noise": 0.0, "frames": 0, "bins": 0}
VARIANTS = {
    "the recipe": {},
    "no masks": {"frames": 0, "bins": 0},
    "no noise": {"noise": 0.0},
    "no speed perturbation": {"speed": 0.0},
    "no shift": {"shift": 0},
    "no gain": {"gain": 0.0},
    "no label smoothing": {"smoothing": 0.0},
    "no augmentation": NO_AUGMENTATION,
    "shift twice as far": {"shift": 3_200},
    "speed up to 10 %": {"speed": 0.1},
    "noise three times as loud": {"noise": 0.3},
    "masks of 25 frames, 7 bins": {"frames": 25, "bins": 7},
    "rate 1e-3": {"rate": 1e-3},
    "rate 6e-3": {"rate": 6e-3},
    "rate 1e-2": {"rate": 1e-2},
    "weight decay 1e-2": {"decay": 1e-2},
    "dropout 0.5": {"dropout": 0.5},
}
R = {"rate": 6e-3}
COMBINED = {
    "rate 6e-3, noise 0.3": R | {"noise": 0.3},
    "rate 6e-3, no smoothing": R | {"smoothing": 0.0},
    "rate 6e-3, dropout 0.5": R | {"dropout": 0.5},
    "rate 6e-3, noise 0.3, dropout 0.5": R | {"noise": 0.3, "dropout": 0.5},
    "rate 6e-3, noise 0.3, no smoothing": R | {"noise": 0.3, "smoothing": 0.0},
    "rate 6e-3, noise 0.3, dropout 0.5, no smoothing": R | {"noise": 0.3, "dropout": 0.5, "smoothing": 0.0},
    "rate 6e-3, noise 0.3, speed 0.1": R | {"noise": 0.3, "speed": 0.1},
    "rate 6e-3, weight decay 1e-2": R | {"decay": 1e-2},
    "rate 6e-3, noise 0.3, no masks": R | {"noise": 0.3, "frames": 0, "bins": 0},
    "rate 6e-3, noise 0.3, no gain": R | {"noise": 0.3, "gain": 0.0},
}
VARIANTS |= COMBINED
SHORT = [
    "the recipe",
    "no masks",
    "no noise",
    "no speed perturbation",
    "no augmentation",
    "rate 1e-3",
    "rate 6e-3",
    "rate 1e-2",
]
GROUPS = {  # epochs: variants
    120: [name for name in VARIANTS if name not in COMBINED],
    61: ["the recipe", "rate 6e-3", *COMBINED],
    60: SHORT,
    240: ["the recipe", "no masks", "no noise", "shift twice as far", "rate 1e-3", "rate 6e-3"],
    12: SHORT,
}


def course_functions(*names):
    """Functions of kws/training.py that need numpy only, taken from its text: importing it needs TensorFlow."""
    source, found = (ROOT / "kws/training.py").read_text(), {"np": np, "__builtins__": builtins}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            code = compile(ast.Module([node], []), "kws/training.py", "exec")
            body = next(part for part in code.co_consts if isinstance(part, types.CodeType))
            defaults = tuple(map(ast.literal_eval, node.args.defaults))
            found[node.name] = types.FunctionType(body, found, node.name, defaults)
    return [found[name] for name in names]


class Nets:
    """K TC-ResNet14 side by side, channels last: features [K, n, 98, 40] -> logits [K, n, classes]."""

    def __init__(self, k, classes, device, generator, widths=(36, 36, 48, 48, 72, 72), first=24, bins=40):
        self.k, self.device, self.generator, self.parts = k, device, generator, []
        self.parameters, self.state = [], []

        def conv(width_in, width, length):
            limit = math.sqrt(6 / (length * (width_in + width)))  # glorot_uniform
            weight = (
                torch.rand(k, width_in * length, width, generator=generator, device=device) * 2 - 1
            ) * limit
            gamma, beta = torch.ones(k, 1, width, device=device), torch.zeros(k, 1, width, device=device)
            mean, var = torch.zeros(k, 1, width, device=device), torch.ones(k, 1, width, device=device)
            self.parameters += [weight, gamma, beta]
            self.state += [mean, var]
            return (weight, gamma, beta, mean, var, length)

        self.stem, self.blocks, width_in = conv(bins, first, 3), [], first
        for width in widths:
            stride = 1 if width == width_in else 2
            shortcut = conv(width_in, width, 1) if stride == 2 else None
            self.blocks.append((stride, conv(width_in, width, 9), conv(width, width, 9), shortcut))
            width_in = width
        limit = math.sqrt(6 / (width_in + classes))
        self.dense = (torch.rand(k, width_in, classes, generator=generator, device=device) * 2 - 1) * limit
        self.bias = torch.zeros(k, 1, classes, device=device)
        self.parameters += [self.dense, self.bias]
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def convolve(self, x, part, stride, training):
        """Convolution with Keras's `same` padding, and batch normalisation: [K, n, time, channels]."""
        weight, gamma, beta, mean, var, length = part
        k, n, steps, _ = x.shape
        out = -(-steps // stride)
        pad = max((out - 1) * stride + length - steps, 0)
        x = F.pad(x, (0, 0, pad // 2, pad - pad // 2))
        x = x.unfold(2, length, stride).reshape(k, n * out, -1) @ weight
        if training:
            batch_var, batch_mean = torch.var_mean(x, 1, keepdim=True, correction=0)
            with torch.no_grad():
                mean.lerp_(batch_mean, 0.05)
                var.lerp_(batch_var, 0.05)
        else:
            batch_mean, batch_var = mean, var
        x = (x - batch_mean) * (torch.rsqrt(batch_var + 1e-3) * gamma) + beta
        return x.view(k, n, out, -1)

    def __call__(self, x, dropout=None):
        training = dropout is not None
        x = F.relu(self.convolve(x, self.stem, 1, training))
        for stride, first, second, shortcut in self.blocks:
            y = F.relu(self.convolve(x, first, stride, training))
            y = self.convolve(y, second, 1, training)
            if shortcut:
                x = F.relu(self.convolve(x, shortcut, stride, training))
            x = F.relu(x + y)
        x = x.mean(2)
        if training:
            x = x * (torch.rand(x.shape, device=x.device) >= dropout) / (1 - dropout)
        return x @ self.dense + self.bias


class AdamW:
    """Keras's AdamW, with rate and decay of their own for each of the K networks; the decay is of all weights."""

    def __init__(self, parameters, rate, decay):
        self.parameters, self.rate, self.decay, self.t = parameters, rate, decay, 0
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, gradients, factor):
        self.t += 1
        rate = self.rate * factor
        alpha = rate * math.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        torch._foreach_lerp_(self.m, gradients, 0.1)
        torch._foreach_mul_(self.v, 0.999)
        torch._foreach_addcmul_(self.v, gradients, gradients, 0.001)
        for p, m, v in zip(self.parameters, self.m, self.v):
            p.mul_(1 - rate * self.decay).sub_(alpha * m / (v.sqrt() + 1e-7))


def schedule(step, steps, rate):
    """Keras's CosineDecay with warm-up, as in compile_model, as a share of the rate [K, 1, 1]."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (1e-5 + (rate - 1e-5) * step / warm_up) / rate
    return 0.5 * (1 + math.cos(math.pi * min(1, (step - warm_up) / max(1, steps - warm_up))))


def front_end(pcm, mel, mean, std):
    """PCM [..., 16,000] -> normalised log-mel [..., 98, 40]."""
    hann = torch.hann_window(480, device=pcm.device)
    power = torch.fft.rfft(pcm.unfold(-1, 480, HOP) * hann, FFT).abs().square()
    return (torch.log(power @ mel + 1e-6) - mean) / std


def augment(pcm, noise, s):
    """speed_perturb, shift, gain, add_noise of kws/preprocess.py: PCM [K, n, 16,000], settings of shape [K, 1]."""
    k, n, _ = pcm.shape
    device = pcm.device

    def uniform(low, high):
        return low + (high - low) * torch.rand(k, n, device=device)

    rate = uniform(1 - s["speed"], 1 + s["speed"])[..., None]
    steps = (s["shift"] / 16).round()
    moved = 16 * (torch.floor(torch.rand(k, n, device=device) * (2 * steps + 1)) - steps)[..., None]
    t = torch.arange(CLIP, device=device, dtype=torch.float32) + moved
    inside = (t >= 0) & (t < CLIP)
    place = CLIP / 2 * (1 - rate) + t * rate
    inside &= (place >= 0) & (place <= CLIP - 1)
    low = place.floor().clamp(0, CLIP - 2)
    part = (place - low).clamp(0, 1)
    low = low.long()
    moved = torch.gather(pcm, 2, low) * (1 - part) + torch.gather(pcm, 2, low + 1) * part
    moved = torch.where(inside, moved, 0) * uniform(1 - s["gain"], 1 + s["gain"])[..., None]
    start = torch.randint(0, len(noise) // HOP - CLIP // HOP + 1, (k, n, 1), device=device) * HOP
    volume = uniform(0, s["noise"]) * (torch.rand(k, n, device=device) < 0.8)
    return moved + volume[..., None] * noise[start + torch.arange(CLIP, device=device)]


def masks(x, s):
    """spec_augment of kws/preprocess.py for features [K, n, frames, bins]."""
    k, n, length, width = x.shape

    def keep(size, widest):
        band = torch.floor(torch.rand(k, n, device=x.device) * (widest + 1))[..., None]
        start = torch.floor(torch.rand(k, n, device=x.device) * (size - widest + 1))[..., None]
        at = torch.arange(size, device=x.device)
        return ((at < start) | (at >= start + band)).float()

    for _ in range(2):
        x = x * keep(length, s["frames"])[..., None] * keep(width, s["bins"])[:, :, None]
    return x


def train(runs, epochs, data, deadline, compiled=True, most_steps=None):
    """Train one network for each run (name, seed, settings); accuracies per epoch [epochs, K], last and best probabilities."""
    device, k = data["pcm"].device, len(runs)
    generator = torch.Generator(device).manual_seed(epochs)
    torch.manual_seed(epochs)
    s = {
        key: torch.tensor([[run[2][key]] for run in runs], device=device, dtype=torch.float32)
        for key in RECIPE
    }
    nets = Nets(k, data["classes"], device, generator)
    optimiser = AdamW(nets.parameters, s["rate"][..., None], s["decay"][..., None])
    seeds = sorted({run[1] for run in runs})
    draws = {seed: np.random.default_rng([seed, epochs]) for seed in seeds}
    draw_epoch, labels, rows = data["draw_epoch"], data["labels"], data["train_rows"]

    def prepared(pcm):
        return masks(front_end(augment(pcm, data["noise"], s), *data["mel"]), s)

    prepared = torch.compile(prepared) if compiled else prepared
    dropout = s["dropout"][..., None]
    target_of = torch.eye(data["classes"], device=device)
    step, history, best, kept, total, begin = 0, [], torch.full((k,), -1.0), None, None, time.time()
    for epoch in range(epochs):
        order = {}
        for seed in seeds:
            drawn = draw_epoch(labels[rows], data["words"][rows], draws[seed])
            order[seed] = rows[draws[seed].permutation(drawn)]
        batches = len(order[seeds[0]]) // BATCH
        total = total or batches * epochs
        index = torch.from_numpy(np.stack([order[run[1]][: batches * BATCH] for run in runs])).to(device)
        for at in range(0, batches * BATCH, BATCH):
            now = index[:, at : at + BATCH]
            with torch.no_grad():
                x = prepared(data["pcm"][now].float() / 32_768)
                y = target_of[data["label"][now]]
                y = y * (1 - s["smoothing"][..., None]) + s["smoothing"][..., None] / data["classes"]
            loss = -(y * F.log_softmax(nets(x, dropout), -1)).sum(-1).mean(1).sum()
            gradients = torch.autograd.grad(loss, nets.parameters)
            optimiser.step(gradients, schedule(step, total, optimiser.rate))
            step += 1
            if most_steps and step >= most_steps:
                return {"seconds": time.time() - begin, "loss": float(loss) / k}
        if epoch % 5 != 4 and epoch < epochs - 5:
            continue
        with torch.no_grad():
            x = data["features"]
            probabilities = torch.cat(
                [nets(x[i : i + 500].expand(k, -1, -1, -1)).softmax(-1) for i in range(0, len(x), 500)], 1
            )
            right = probabilities.argmax(-1) == data["eval_label"]
            history.append(
                [epoch + 1, *(right[:, data[part]].float().mean(1).tolist() for part in ("val", "test"))]
            )
            better = torch.tensor(history[-1][1]) > best
            best = torch.where(better, torch.tensor(history[-1][1]), best)
            kept = (
                probabilities.clone()
                if kept is None
                else torch.where(better.to(device)[:, None, None], probabilities, kept)
            )
        if epoch % 20 == 19:
            print(
                f"{epochs} epochs: {epoch + 1}, {time.time() - begin:.0f} s, loss {float(loss) / k:.3f}",
                flush=True,
            )
        if time.time() > deadline:
            print("out of time", flush=True)
            return None
    return {
        "history": history,
        "last": probabilities.half().cpu().numpy(),
        "best": kept.half().cpu().numpy(),
        "seconds": time.time() - begin,
        "weights": [p.detach().half().cpu().numpy() for p in [*nets.parameters, *nets.state]],
    }


def load(folder, device):
    """Everything that a training needs, on the device."""
    meta = dict(np.load(Path(folder) / "meta.npz", allow_pickle=False))
    pcm = torch.from_numpy(np.load(Path(folder) / "clips.npy"))
    mel = [torch.from_numpy(np.asarray(meta[key], "float32")).to(device) for key in ("mel", "mean", "std")]
    first = torch.from_numpy(meta["first"]).to(device).float() / 32_768
    stored = (torch.from_numpy(meta["feature"]).to(device) - mel[1]) / mel[2]
    assert (front_end(first, *mel) - stored).abs().max() < 2e-3, "another front end"
    split, label = meta["split"], meta["label"].astype("int64")
    evaluated = np.flatnonzero(np.isin(split, ["val", "test", "withheld"]))
    data = {
        "pcm": pcm.to(device), "mel": mel, "labels": label, "words": meta["word"], "classes": 12,
        "label": torch.from_numpy(np.maximum(label, 0)).to(device),
        "noise": torch.from_numpy(np.load(Path(folder) / "noise.npy")).to(device).float() / 32_768,
        "train_rows": np.flatnonzero(np.isin(split, ["train", "held"])),
        "eval_label": torch.from_numpy(label[evaluated]).to(device),
        "draw_epoch": course_functions("sample_rows", "draw_epoch")[1],
    }  # fmt: skip
    with torch.no_grad():
        data["features"] = torch.cat([
            front_end(data["pcm"][torch.from_numpy(some).to(device)].float() / 32_768, *mel)
            for some in np.array_split(evaluated, 8)
        ])  # fmt: skip
    for part in ("val", "test"):  # spoken clips
        data[part] = torch.from_numpy(
            np.flatnonzero((split[evaluated] == part) & meta["spoken"][evaluated])
        ).to(device)
    data["split_of_evaluated"] = split[evaluated]
    return data


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--runs", default="120,60,240,12")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="only so many steps, to see how fast it is")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    deadline = time.time() + args.seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    data = load(args.folder, device)
    args.out.mkdir(parents=True, exist_ok=True)
    for epochs in map(int, args.runs.split(",")):
        runs = [
            (name, seed, RECIPE | VARIANTS[name]) for name in GROUPS[epochs] for seed in range(args.seeds)
        ]
        found = train(runs, epochs, data, deadline, not args.eager, args.steps)
        if args.steps:
            print(len(runs), "networks", args.steps, "steps", found, flush=True)
            continue
        if found is None:
            break
        seen, val, test = (np.array(each) for each in zip(*found.pop("history")))
        at = val.argmax(0)
        rows = [
            {"variant": name, "seed": seed, "epochs": epochs, "val_last": val[-1, i], "test_last": test[-1, i],
             "best_epoch": int(seen[at[i]]), "val_best": val[at[i], i], "test_of_best": test[at[i], i],
             "n_val": len(data["val"]), "n_test": len(data["test"]), "seconds_of_group": round(found["seconds"])}
            for i, (name, seed, _) in enumerate(runs)
        ]  # fmt: skip
        (args.out / f"rows-{epochs}.json").write_text(json.dumps(rows))
        np.savez_compressed(
            args.out / f"said-{epochs}.npz",
            last=found["last"],
            best=found["best"],
            seen=seen,
            val=val.astype("float32"),
            test=test.astype("float32"),
        )
        for i in range(len(runs)):  # the weights of the likeliest candidates
            if (
                runs[i][0] in ("the recipe", "no noise", "no masks", "shift twice as far")
                and runs[i][1] == 0
                and epochs >= 120
            ):
                np.savez(
                    args.out / f"weights-{epochs}-{runs[i][0].replace(' ', '_')}.npz",
                    *[w[i] for w in found["weights"]],
                )
        for name in GROUPS[epochs]:
            some = [row for row in rows if row["variant"] == name]
            means = {
                key: 100 * np.mean([row[key] for row in some])
                for key in ("val_last", "val_best", "test_last")
            }
            print(f"{epochs:4} {name:28}", {key: round(mean, 2) for key, mean in means.items()}, flush=True)


if __name__ == "__main__":
    main()
