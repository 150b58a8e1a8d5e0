"""Train on a user's own z-stacks: leave out one field of view after the other, then learn from all, and write a report card.

    python3 -m training.stacks --data DATA --out out/train/mine

`DATA/train` and `DATA/val` are what `hhnet dataset ingest --every-field` writes: every field in both, on several grids to learn from,
on the classifier's own grid to be scored on. A field is scored by a network that never saw it, and whose certainty was set
on other fields than that: by leaving each field it learns from out in turn. With `--hold-out FIELD` only that field is scored,
and the network that is written has not seen it.

A few dozen images teach little, and a network that sees their shapes learns them by heart. `HhnetStack` therefore looks at 21 numbers per
patch alone, those of `model.look`: levels, contrasts at four scales, and how much blurrier red and blue are than green at three.
Flips and turns do not change them. Several small heads vote, because one of them depends on how its weights began.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import data, report
from .export import export
from .model import LAPLACIAN, NUMBERS, Histogram, look, loss
from .train import calibrate, git_commit

#: Heads whose answers are averaged.
HEADS = 6
HIDDEN = 48
#: Bins of each class: wide ones, which a few dozen heights fill.
BINS = (8, 8, 8, 8, 5, 6, 5)
#: Noise on the standardised numbers while learning.
NOISE = 0.15
BATCH = 128
#: Defocus beyond which the sign is scored, µm.
SIGN_BEYOND_UM = 5.0


class HhnetStack(Histogram):
    """A histogram over defocus from the 21 numbers of a patch. The frame's features are taken and not looked at."""

    def __init__(self, edges: data.ClassEdges, z_range_um: tuple[float, float]):
        super().__init__(edges, z_range_um, BINS)
        self.register_buffer("laplacian", torch.tensor(LAPLACIAN).expand(3, 1, 3, 3).contiguous())
        self.register_buffer("numbers_mean", torch.zeros(NUMBERS))
        self.register_buffer("numbers_scale", torch.ones(NUMBERS))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(NUMBERS, HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN, sum(BINS)))
            for _ in range(HEADS)
        )

    def forward(self, pooled: torch.Tensor, standardised: torch.Tensor) -> torch.Tensor:
        numbers = (look(pooled, self.laplacian)[2] - self.numbers_mean) / self.numbers_scale
        # The exported graph keeps an input only if something depends on it.
        numbers = numbers.clamp(-3.0, 3.0) + 0.0 * standardised[:, :1]
        return torch.stack([head(numbers) for head in self.heads]).mean(0)


def numbers_of(patches: data.PatchSet, batch: int = 256) -> torch.Tensor:
    """The 21 numbers of every patch."""
    laplacian = torch.tensor(LAPLACIAN).expand(3, 1, 3, 3).contiguous()
    starts = range(0, len(patches), batch)
    return torch.cat([look(patches.pooled[start : start + batch].float(), laplacian)[2] for start in starts])


def learn(patches: data.PatchSet, numbers: torch.Tensor, settings: argparse.Namespace) -> HhnetStack:
    """A network that has learnt these patches; every run alike."""
    torch.manual_seed(settings.seed)
    random = torch.Generator().manual_seed(settings.seed)
    z_max_um = patches.manifest["config"]["z_max_um"]
    network = HhnetStack(patches.edges, (-z_max_um, z_max_um))
    network.numbers_mean.copy_(numbers.mean(0))
    network.numbers_scale.copy_(numbers.std(0) + 1e-6)
    seen = ((numbers - network.numbers_mean) / network.numbers_scale).clamp(-3.0, 3.0)
    optimiser = torch.optim.AdamW(network.heads.parameters(), lr=settings.rate, weight_decay=0.1)
    known = torch.ones(len(seen), dtype=torch.bool)
    network.train()
    for epoch in range(settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * (1 - epoch / settings.epochs)
        for rows in torch.randperm(len(seen), generator=random).split(BATCH):
            value = torch.zeros(())
            for head in network.heads:
                noisy = seen[rows] + NOISE * torch.randn(len(rows), NUMBERS, generator=random)
                value = value + loss(network, head(noisy), patches.z_um[rows], known[rows])
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
    return network.eval()


class Folds:
    """Both sets, their numbers, and what networks that left out some fields say of them."""

    def __init__(self, settings: argparse.Namespace):
        self.settings = settings
        self.training, self.scored = data.load(settings.data / "train"), data.load(settings.data / "val")
        self.numbers = numbers_of(self.training)
        try:
            self.names: list[str] = self.training.manifest["recorded"]["fields"]
        except KeyError:
            raise ValueError(f"{settings.data} holds no recorded z-stacks: make it with hhnet dataset ingest") from None
        self.fields = sorted(set(self.training.slide.tolist()))
        if set(self.fields) != set(self.scored.slide.tolist()):
            raise ValueError(f"train and val in {settings.data} hold different fields: ingest with --every-field")

    def without(self, *left_out: int) -> HhnetStack:
        """A network that learnt all fields but these."""
        rows = ~np.isin(self.training.slide, left_out)
        return learn(self.training.only(rows), self.numbers[torch.from_numpy(rows)], self.settings)

    def logits(self, left_out: tuple[int, ...], fields: list[int]) -> tuple[data.PatchSet, np.ndarray]:
        """The patches of `fields`, and what is said of each field by a network that saw neither it nor those `left_out`."""
        parts = []
        for field in fields:
            patches = self.scored.only(self.scored.slide == field)
            parts.append(report.predict(self.without(*left_out, field), patches)["logits"])
        order = np.concatenate([np.flatnonzero(self.scored.slide == field) for field in fields])
        mask = np.isin(self.scored.slide, fields)
        return self.scored.only(mask), np.concatenate(parts)[np.argsort(order)]

    def judge(self, field: int) -> tuple[HhnetStack, dict[str, np.ndarray]]:
        """A network that never saw `field`, calibrated on the others, and what it says of the field's patches."""
        network = self.without(field)
        others = [other for other in self.fields if other != field]
        if len(others) > 1:
            calibrate(network, *self.logits((field,), others))
        return network, report.predict(network, self.scored.only(self.scored.slide == field))


def images_of(found: dict[str, np.ndarray], patches: data.PatchSet, network: HhnetStack) -> list[dict]:
    """What is said of each image: index, µm, and the side of focus by the mean log odds of its patches."""
    probability = torch.softmax(torch.from_numpy(found["logits"]) / network.temperature, 1)
    far = probability[:, network.bin_centres > 0].sum(1).clamp(1e-3, 1 - 1e-3).numpy()
    rows = []
    for image in range(patches.images.max() + 1):
        mine = patches.images == image
        voted = report.vote(found["probabilities"][mine])
        rows.append(
            {
                "field": int(patches.slide[mine][0]),
                "z_um": float(patches.z_um[torch.from_numpy(mine)][0]),
                "index": 4 - int(voted.argmax()),
                "defocus_um": report.robust_mean(found["defocus_um"][mine], found["variance_um2"][mine]),
                "side_log_odds": float(np.log(far[mine] / (1 - far[mine])).mean()),
                "patches": int(mine.sum()),
            }
        )
    return rows


def summarise(rows: list[dict], edges: data.ClassEdges) -> dict:
    """The figures of some images."""
    z_um, found_um = (np.array([row[key] for row in rows]) for key in ("z_um", "defocus_um"))
    index, odds = (np.array([row[key] for row in rows]) for key in ("index", "side_log_odds"))
    far = np.abs(z_um) > SIGN_BEYOND_UM
    right = {"side": odds * z_um > 0, "defocus": found_um * z_um > 0, "index": index * z_um > 0}
    error = np.abs(found_um - z_um)
    return {
        "images": len(rows),
        "images_beyond_5um": int(far.sum()),
        "sign_right": {name: int(counts[far].sum()) for name, counts in right.items()},
        "abs_error_um": {"median": float(np.median(error)), "p95": float(np.percentile(error, 95))},
        "index_accuracy": float((index == 4 - edges.classify(z_um)).mean()),
    }


def share(figures: dict, by: str) -> str:
    right, count = figures["sign_right"][by], figures["images_beyond_5um"]
    return f"{right} of {count}" + (f" ({100 * right / count:.0f} %)" if count else "")


def write_card(card: dict, names: list[str], out: Path) -> None:
    """The report card: card.json, card.md, card.png."""
    report.write_json(out / "card.json", card)
    lines = [
        "# Report card",
        "",
        f"{card['pooled']['images']} images of {len(card['fields'])} fields of view, each judged by a network that never saw its field. "
        f"Sign: of the images with |z| > {SIGN_BEYOND_UM:g} µm, by three ways of saying it.",
        "",
        "| field | images | sign by the mean log odds of the patches | by the estimate in µm | by the voted index "
        "| error, median, µm | 95th percentile, µm | index right |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in [*card["fields"].items(), ("all", card["pooled"])]:
        signs = " | ".join(share(figures, by) for by in ("side", "defocus", "index"))
        error = figures["abs_error_um"]
        lines.append(
            f"| {name} | {figures['images']} | {signs} | {error['median']:.1f} | {error['p95']:.1f} | {figures['index_accuracy']:.0%} |"
        )
    lines += [
        "",
        "Positive is taken for a lens too far from the specimen: ingest with --flip-sign (FLIP_SIGN=1) if the stack counts downwards.",
    ]
    try:
        draw(card["image_list"], names, out / "card.png")
        lines += ["", "![Truth, estimate and confusion](card.png)"]
    except ImportError:
        lines += ["", "No picture: matplotlib is not installed."]
    (out / "card.md").write_text("\n".join(lines) + "\n")


def draw(rows: list[dict], names: list[str], path: Path) -> None:
    """Side, estimate and confusion as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for number in sorted({row["field"] for row in rows}):
        mine = [row for row in rows if row["field"] == number]
        z_um = [row["z_um"] for row in mine]
        left.plot(z_um, [row["side_log_odds"] for row in mine], "o", label=names[number])
        middle.plot(z_um, [row["defocus_um"] for row in mine], "o", label=names[number])
    left.axhline(0, color="grey", linewidth=0.8)
    left.axvline(0, color="grey", linewidth=0.8)
    left.set(xlabel="true defocus, µm", ylabel="log odds of too far, mean of the patches")
    left.legend()
    middle.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    middle.set(xlabel="true defocus, µm", ylabel="estimate, µm")
    counts = np.zeros((data.CLASSES, data.CLASSES), int)
    for row in rows:
        counts[4 - row["true_index"], 4 - row["index"]] += 1
    right.imshow(counts, cmap="Blues")
    for (at, column), count in np.ndenumerate(counts):
        if count:
            right.text(column, at, count, ha="center", va="center")
    order = [4, 3, 2, 1, 0, -1, -2]
    right.set_xticks(range(7), order)
    right.set_yticks(range(7), order)
    right.set(xlabel="voted index", ylabel="true index")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def fit(settings: argparse.Namespace) -> dict:
    """The whole run; returns the report card."""
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    folds = Folds(settings)
    edges = folds.training.edges
    chosen = folds.fields
    if settings.hold_out is not None:
        if settings.hold_out not in folds.names:
            raise ValueError(f"there is no field '{settings.hold_out}' to hold out; there are {', '.join(folds.names)}")
        chosen = [folds.names.index(settings.hold_out)]
    rows, started = [], time.monotonic()
    for field in chosen:
        network, found = folds.judge(field)
        mine = images_of(found, folds.scored.only(folds.scored.slide == field), network)
        rows += [row | {"true_index": int(4 - edges.classify(np.array([row["z_um"]]))[0])} for row in mine]
        print(
            f"{folds.names[field]} left out: sign {share(summarise(mine, edges), 'side')}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    if settings.hold_out is None:
        network = folds.without()
        calibrate(network, *folds.logits((), folds.fields))
    card = {
        "model": "hhnet_stack",
        "git_commit": git_commit(),
        "seed": settings.seed,
        "training_set": folds.training.manifest_sha256,
        "training_patches": len(folds.training),
        "pooled": summarise(rows, edges),
        "fields": {folds.names[field]: summarise([row for row in rows if row["field"] == field], edges) for field in chosen},
        "temperature": float(network.temperature),
        "image_list": rows,
    }
    sample = data.shards(settings.data / "val")[0].read()[0][:8].copy(), folds.scored.handcrafted[:8].numpy()
    card["export_difference"] = export(
        network, settings.out / "hhnet_stack.onnx", folds.training, {"left_out": card["pooled"]}, sample
    )
    write_card(card, folds.names, settings.out)
    print((settings.out / "card.md").read_text(), flush=True)
    return card


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets train and val, every field in both")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report card and the network")
    parser.add_argument("--hold-out", help="the only field to be left out; all in turn without it")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument(
        "--threads", type=int, default=1, help="the heads are so small that two threads only wait for each other"
    )
    parser.add_argument("--seed", type=int, default=20180)
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        fit(arguments())
    except (OSError, ValueError) as error:
        raise SystemExit(f"train: {error}") from None
