"""Train on a user's own z-stacks: leave out one field of view after the other, then learn from all, and write a report card.

    python3 -m training.stacks --data DATA --out out/train/mine

`DATA/train` and `DATA/val` are what `hhnet dataset ingest --every-field --keep-blank` writes: every field in both, on several
grids to learn from, on the classifier's own grid to be scored on; blank patches are seen and have no vote. A field is scored by a
network that never saw it, and whose certainty was set on other fields than that: by leaving each field it learns from out in turn.
With `--hold-out FIELD` only that field is scored, and the network that is written has not seen it.

A few dozen images teach little, and a network that sees their shapes learns them by heart. `HhnetStack` therefore looks at 20
numbers: the contrasts of the patch, which tell how far, and how much blurrier red is than green, in the whole frame (`colour`) and
in the patch (`model.fringes`, blue as well), which tells the side. That the side is told by nothing else is taught by showing every
image a second time as its mirror image about 0. (Where red and green are equally blurred is not exactly there: heights near focus
are off by that.) Several small heads vote, because one of them depends on how its weights began.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import colour, data, report
from .export import export
from .model import LAPLACIAN, Histogram, look, loss
from .train import fit_certainty, git_commit

#: Heads whose answers are averaged.
HEADS = 6
HIDDEN = 48
#: Among the numbers of `model.look`, the contrasts of three colours at four scales, and the fringes of two at three.
CONTRASTS, FRINGES = slice(3, 15), slice(15, 21)
#: Numbers a head sees: the contrasts, the fringes, and how much blurrier red is on each grid.
NUMBERS = 12 + 6 + len(colour.GRIDS)
#: Those of them that tell the side.
TELL_SIDE = slice(12, None)
#: What fringes and blur are divided by, to be about 1; blur in squares of 3x3 pixels.
FRINGES_SCALE, BLUR_SCALE = 0.5, 2.0
#: Bins of each class: wide ones, which a few dozen heights fill.
BINS = (8, 8, 8, 8, 5, 6, 5)
#: Noise on the standardised numbers while learning.
NOISE = 0.15
BATCH = 128
#: Defocus beyond which the sign is scored, µm.
SIGN_BEYOND_UM = 5.0
#: A sign counts as told if guessing would have got as many right with at most this probability.
BY_CHANCE = 0.05


class HhnetStack(Histogram):
    """A histogram over defocus from contrasts and fringes of a patch and the colours of all patches of its frame, which must be what
    it is given. The frame's features are taken and not looked at.
    """

    whole_frames = True

    def __init__(self, edges: data.ClassEdges, z_range_um: tuple[float, float]):
        super().__init__(edges, z_range_um, BINS)
        self.register_buffer("laplacian", torch.tensor(LAPLACIAN).expand(3, 1, 3, 3).contiguous())
        self.colour = colour.RedBlur()
        self.register_buffer("contrast_mean", torch.zeros(12))
        self.register_buffer("contrast_scale", torch.ones(12))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(NUMBERS, HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN, sum(BINS)))
            for _ in range(HEADS)
        )

    def numbers(self, looked: torch.Tensor, blur: torch.Tensor) -> torch.Tensor:
        """What the heads see [n, 20], from the numbers of `model.look` for each patch and how much blurrier red is in its frame.

        Those in `TELL_SIDE` change their sign in a mirror image about focus.
        """
        contrasts = (looked[:, CONTRASTS] - self.contrast_mean) / self.contrast_scale
        # The asinh, written out because PyTorch 1.13 cannot export it: c is some 2 on a wafer, and on a stained smear
        # some 40, which the clamp takes for 20.
        strength = torch.log(blur.abs() / BLUR_SCALE + torch.sqrt((blur / BLUR_SCALE) ** 2 + 1))
        return torch.cat([contrasts, looked[:, FRINGES] / FRINGES_SCALE, torch.sign(blur) * strength], 1).clamp(-3.0, 3.0)

    def forward(self, pooled: torch.Tensor, standardised: torch.Tensor) -> torch.Tensor:
        looked = look(pooled, self.laplacian)[2]
        blur = self.colour(self.colour.sums(pooled).sum(0, keepdim=True))
        # The exported graph keeps an input only if something depends on it.
        numbers = self.numbers(looked, blur + 0.0 * standardised[:, :1])
        return torch.stack([head(numbers) for head in self.heads]).mean(0)


@dataclass(frozen=True)
class Seen:
    """What a network sees of patches that may vote, and what of the frames they are from."""

    looked: torch.Tensor  # float32 [n, 21], the numbers of `model.look`
    z_um: torch.Tensor  # float32 [n]
    image: torch.Tensor  # int64 [n], a row of `sums`
    sums: list[torch.Tensor]  # of each image, float64 [its patches, grids, 2, 12], the blank ones too
    field: np.ndarray  # int64 [images]

    @classmethod
    def of(cls, patches: data.PatchSet, batch: int = 256) -> "Seen":
        """Looks at all patches."""
        laplacian = torch.tensor(LAPLACIAN).expand(3, 1, 3, 3).contiguous()
        blur = colour.RedBlur()
        looked, sums = [], []
        for part in patches.pooled.split(batch):
            looked.append(look(part.float(), laplacian)[2])
            sums.append(blur.sums(part.float()))
        image, votes = torch.from_numpy(patches.images), torch.from_numpy(~patches.blank)
        sums = torch.cat(sums)
        images = range(int(image.max()) + 1)
        return cls(
            torch.cat(looked)[votes],
            patches.z_um[votes],
            image[votes],
            [sums[image == number] for number in images],
            np.array([patches.slide[(image == number).numpy()][0] for number in images]),
        )

    def without(self, fields: tuple[int, ...]) -> "Seen":
        """What is left when some fields are left out."""
        kept = ~np.isin(self.field, fields)
        rows = torch.from_numpy(kept)[self.image]
        number = torch.from_numpy(np.cumsum(kept) - 1)
        sums = [one for one, keep in zip(self.sums, kept) if keep]
        return Seen(self.looked[rows], self.z_um[rows], number[self.image[rows]], sums, self.field[kept])

    def blur(self, of: colour.RedBlur, random: torch.Generator) -> torch.Tensor:
        """How much blurrier red is for each row, by the half of its frame's patches or more, others each time."""

        def some(sums: torch.Tensor) -> torch.Tensor:
            share = 0.5 + 0.5 * torch.rand((), generator=random)
            kept = torch.randperm(len(sums), generator=random)[: max(1, int(share * len(sums)))]
            return sums[kept].sum(0)

        return of(torch.stack([some(sums) for sums in self.sums]))[self.image]


def learn(seen: Seen, edges: data.ClassEdges, z_max_um: float, settings: argparse.Namespace) -> HhnetStack:
    """A network that has learnt what was seen; every run alike."""
    torch.manual_seed(settings.seed)
    random = torch.Generator().manual_seed(settings.seed)
    network = HhnetStack(edges, (-z_max_um, z_max_um))
    network.contrast_mean.copy_(seen.looked[:, CONTRASTS].mean(0))
    network.contrast_scale.copy_(seen.looked[:, CONTRASTS].std(0) + 1e-6)
    optimiser = torch.optim.AdamW(network.heads.parameters(), lr=settings.rate, weight_decay=0.1)
    known = torch.ones(BATCH, dtype=torch.bool)
    network.train()
    for epoch in range(settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * (1 - epoch / settings.epochs)
        blur = seen.blur(network.colour, random)
        for rows in torch.randperm(2 * len(blur), generator=random).split(BATCH):
            # The second half are the mirror images about focus: what was blurrier is as much sharper.
            of, sign = rows % len(blur), torch.where(rows < len(blur), 1.0, -1.0)
            numbers = network.numbers(seen.looked[of], blur[of])
            numbers[:, TELL_SIDE] *= sign[:, None]
            value = torch.zeros(())
            for head in network.heads:
                noisy = numbers + NOISE * torch.randn(numbers.shape, generator=random)
                value = value + loss(network, head(noisy), seen.z_um[of] * sign, known[: len(rows)])
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
    return network.eval()


def predict(network: HhnetStack, patches: data.PatchSet) -> tuple[data.PatchSet, dict[str, np.ndarray]]:
    """The patches that have a vote, and what is said of them."""
    images, found = patches.images, {}
    for image in range(images.max() + 1):
        mine = images == image
        for name, values in report.predict(network, patches.only(mine), int(mine.sum())).items():
            found.setdefault(name, np.empty((len(patches), *values.shape[1:]), values.dtype))[mine] = values
    return patches.only(~patches.blank), {name: values[~patches.blank] for name, values in found.items()}


class Folds:
    """Both sets, and what networks that left out some fields say of them."""

    def __init__(self, settings: argparse.Namespace):
        self.settings = settings
        self.training, self.scored = data.load(settings.data / "train"), data.load(settings.data / "val")
        try:
            self.names: list[str] = self.training.manifest["recorded"]["fields"]
        except KeyError:
            raise ValueError(f"{settings.data} holds no recorded z-stacks: make it with hhnet dataset ingest") from None
        self.fields = sorted(set(self.training.slide.tolist()))
        if len(self.fields) < 2:
            raise ValueError(f"{settings.data} holds one field: at least two are needed, one to learn from and one to score on")
        if set(self.fields) != set(self.scored.slide.tolist()):
            raise ValueError(f"train and val in {settings.data} hold different fields: ingest with --every-field")
        self.leave_out_blank()
        self.seen = Seen.of(self.training)

    def leave_out_blank(self) -> None:
        """Go on without the fields in which there is nothing, while two are left."""
        sets = (self.training, self.scored)
        blank = [number for number in self.fields if any(found.blank[found.slide == number].all() for found in sets)]
        if not blank:
            return
        named = ", ".join(self.names[number] for number in blank)
        if len(self.fields) - len(blank) < 2:
            raise ValueError(
                f"all patches of {named} are blank, and {len(self.fields) - len(blank)} of the two fields that are needed is left: "
                "is there a specimen in the light?"
            )
        print(f"left out: {named}; all patches are blank: is there a specimen in the light?", flush=True)
        self.fields = [number for number in self.fields if number not in blank]
        self.training, self.scored = (found.only(~np.isin(found.slide, blank)) for found in sets)

    def content(self, field: int) -> dict:
        """How many patches of a field there are, and how many hold something."""
        mine = self.scored.slide == field
        return {"patches": int(mine.sum()), "patches_with_content": int((mine & ~self.scored.blank).sum())}

    def without(self, *left_out: int) -> HhnetStack:
        """A network that learnt all fields but these."""
        z_max_um = self.training.manifest["config"]["z_max_um"]
        return learn(self.seen.without(left_out), self.training.edges, z_max_um, self.settings)

    def logits(self, left_out: tuple[int, ...], fields: list[int]) -> tuple[data.PatchSet, np.ndarray]:
        """The patches of `fields`, and what is said of each field by a network that saw neither it nor those `left_out`."""
        votes = self.scored.only(np.isin(self.scored.slide, fields) & ~self.scored.blank)
        logits = np.empty((len(votes), sum(BINS)), np.float32)
        for field in fields:
            _, found = predict(self.without(*left_out, field), self.scored.only(self.scored.slide == field))
            logits[votes.slide == field] = found["logits"]
        return votes, logits

    def judge(self, field: int) -> tuple[HhnetStack, data.PatchSet, dict[str, np.ndarray]]:
        """A network that never saw `field` (how sure it may be is fitted to the others), the field's patches, and what it says of them."""
        network = self.without(field)
        others = [other for other in self.fields if other != field]
        if len(others) > 1:
            fit_certainty(network, *self.logits((field,), others))
        return network, *predict(network, self.scored.only(self.scored.slide == field))


def summed(counts: list[dict]) -> dict:
    """The sums of equal keys."""
    return {key: sum(one[key] for one in counts) for key in counts[0]}


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
    # The controller moves by the index and the estimate: both have to be right.
    told = min(int(right[by][far].sum()) for by in ("defocus", "index"))
    return {
        "images": len(rows),
        "trusted": is_told(told, int(far.sum())),
        "images_beyond_5um": int(far.sum()),
        "sign_right": {name: int(counts[far].sum()) for name, counts in right.items()},
        "abs_error_um": {"median": float(np.median(error)), "p95": float(np.percentile(error, 95))},
        "index_accuracy": float((index == 4 - edges.classify(z_um)).mean()),
    }


def is_told(right: int, count: int) -> bool:
    """Whether that many right signs are more than guessing explains (binomial, one-sided)."""
    return sum(math.comb(count, luck) for luck in range(right, count + 1)) <= BY_CHANCE * 2**count


def share(figures: dict, by: str) -> str:
    right, count = figures["sign_right"][by], figures["images_beyond_5um"]
    return f"{right} of {count}" + (f" ({100 * right / count:.0f} %)" if count else "")


def remarks(card: dict) -> list[str]:
    """What the table means for whoever wants to use the network: a sentence to a line."""
    rows = [*card["fields"].items(), ("all fields together", card["pooled"])]
    lost = [
        f"**{name} is not to be trusted**: {share(figures, 'defocus')} signs of the estimate and {share(figures, 'index')} of the index are "
        f"right, which guessing reaches with more than {BY_CHANCE:.0%}."
        for name, figures in rows
        if not figures["trusted"]
    ]
    faint = [
        f"{name} has low contrast: {figures['patches_with_content']} of its {figures['patches']} patches hold something to judge by."
        for name, figures in card["fields"].items()
        if 2 * figures["patches_with_content"] < figures["patches"]
    ]
    return [*lost, *faint] or ["Every sign is told by more than guessing explains."]


def write_card(card: dict, names: list[str], out: Path) -> None:
    """The report card: card.json, card.md, card.png."""
    report.write_json(out / "card.json", card)
    lines = [
        "# Report card",
        "",
        f"{card['pooled']['images']} images of {len(card['fields'])} fields of view, each judged by a network that never saw its field. "
        f"Sign: of the images with |z| > {SIGN_BEYOND_UM:g} µm, by three ways of saying it.",
        "",
        "| field | images | patches with content | trusted | sign by the mean log odds of the patches | by the estimate in µm | by the voted index "
        "| error, median, µm | 95th percentile, µm | index right |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in [*card["fields"].items(), ("all", card["pooled"])]:
        signs = " | ".join(share(figures, by) for by in ("side", "defocus", "index"))
        error = figures["abs_error_um"]
        lines.append(
            f"| {name} | {figures['images']} | {figures['patches_with_content']} of {figures['patches']} "
            f"| {'yes' if figures['trusted'] else '**no**'} | {signs} | {error['median']:.1f} | {error['p95']:.1f} | {figures['index_accuracy']:.0%} |"
        )
    lines += ["", *remarks(card)]
    lines += [
        "",
        "Positive is taken for a lens too far from the specimen: ingest with --flip-sign (FLIP_SIGN=1) if the stack counts downwards.",
    ]
    try:
        draw(card["image_list"], names, out / "card.png")
        lines += ["", "![Truth, estimate and confusion](card.png)"]
    except ImportError:
        lines += ["", "No picture: matplotlib is not installed."]
    with report.whole(out / "card.md") as partial:
        partial.write_text("\n".join(lines) + "\n")


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
    with report.whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
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
        if chosen[0] not in folds.fields:
            raise ValueError(f"field '{settings.hold_out}' cannot be held out: all its patches are blank")
    rows, started = [], time.monotonic()
    for field in chosen:
        network, patches, found = folds.judge(field)
        mine = images_of(found, patches, network)
        rows += [row | {"true_index": int(4 - edges.classify(np.array([row["z_um"]]))[0])} for row in mine]
        print(
            f"{folds.names[field]} left out: sign {share(summarise(mine, edges), 'side')}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    if settings.hold_out is None:
        network = folds.without()
        fit_certainty(network, *folds.logits((), folds.fields))
    card = {
        "model": "hhnet_stack",
        "git_commit": git_commit(),
        "seed": settings.seed,
        "training_set": folds.training.sha256,
        "training_patches": len(folds.seen.looked),
        "pooled": summarise(rows, edges) | summed([folds.content(field) for field in chosen]),
        "fields": {
            folds.names[field]: summarise([row for row in rows if row["field"] == field], edges) | folds.content(field)
            for field in chosen
        },
        "temperature": float(network.temperature),
        "image_list": rows,
    }
    sample = data.shards(settings.data / "val")[0].read()[0][:8].copy(), folds.scored.handcrafted[:8].numpy()
    card["export_difference"] = export(
        network, settings.out / "hhnet_stack.onnx", folds.training, {"left_out": card["pooled"]}, sample
    )
    write_card(card, folds.names, settings.out)
    print((settings.out / "card.md").read_text(), flush=True)
    if not card["pooled"]["trusted"]:
        print("warning: this network does not tell the side of focus: do not let it move a lens", flush=True)
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
