"""Train `hhnet_fast`, export every improvement, and score the best on the test sets.

    python3 -m training.train --data DATA --out out/train/fast --export models/hhnet_fast.onnx

`DATA/train` is learnt from, `DATA/val` (other slides) chooses the weights and the temperature, `DATA/test_*` are only scored
at the end. Run again with `--resume` after an interruption: it goes on from the last finished epoch.
"""

import argparse
import copy
import itertools
import json
import math
import platform
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import data, report
from .export import export
from .model import HhnetFast, loss, macs, soft_label


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test_* sets")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="further training sets, learnt from with DATA/train")
    parser.add_argument("--out", type=Path, default=Path("out/train/fast"), help="checkpoints, run card, learning curve")
    parser.add_argument("--export", type=Path, default=Path("models/hhnet_fast.onnx"), help="file each improvement replaces")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--crop", type=int, default=68, help="side of the crops in the early epochs, of 100")
    parser.add_argument("--crop-share", type=float, default=0.75, help="share of the epochs that train on crops")
    parser.add_argument("--empty", type=float, default=0.03, help="share of the patches replaced by empty glass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20180)
    parser.add_argument("--start-from", type=Path, help="weights (best.pt, or the .npz that ships) instead of random ones")
    parser.add_argument(
        "--answers-um",
        type=float,
        help="largest defocus the model answers for, µm; what it learns beyond only tells it what not to answer. Default: all it learns",
    )
    parser.add_argument(
        "--choose", choices=("best", "last"), default="best", help="epoch whose weights are kept: best on val, or last"
    )
    parser.add_argument("--incomplete", action="store_true", help="take a training set that is still being built")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(argv)


def learning_rate(progress: float, peak: float) -> float:
    """One cycle: up over the first tenth, then a cosine to nearly nothing."""
    if progress < 0.1:
        return peak * (0.1 + 0.9 * progress / 0.1)
    return peak * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9)))


class Average:
    """Exponential moving average of the weights, which is what gets scored and exported."""

    def __init__(self, network: HhnetFast, decay: float = 0.997):
        self.network = copy.deepcopy(network).eval()
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: HhnetFast) -> None:
        self.steps += 1
        decay = min(self.decay, 1 - 1 / (self.steps + 1))
        for mine, theirs in zip(self.network.state_dict().values(), network.state_dict().values()):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


def fit_certainty(network: HhnetFast, patches: data.PatchSet, raw: np.ndarray) -> None:
    """Set temperature (least cross-entropy of the classes) and variance scale (median error) from held-out slides."""
    logits = torch.from_numpy(raw)
    truth = torch.from_numpy(patches.edges.classify(patches.z_um.numpy()))

    def cross_entropy(temperature: float) -> float:
        probability = torch.softmax(logits / temperature, 1) @ network.membership
        return float(-torch.log(probability.gather(1, truth[:, None]) + 1e-9).mean())

    network.temperature.fill_(min(np.geomspace(0.5, 3.0, 37).tolist(), key=cross_entropy))
    network.variance_scale.fill_(1.0)
    _, mean, variance = network.moments(logits)
    deviation = torch.abs(network.to_u(patches.z_um) - mean) / torch.sqrt(variance)
    network.variance_scale.fill_(float((deviation.median() / 0.6745) ** 2))


def validation_loss(network: HhnetFast, patches: data.PatchSet, logits: np.ndarray) -> float:
    """Cross-entropy of the histogram on a held-out set."""
    target = soft_label(network, patches.z_um.to(network.bin_edges.device)).cpu()
    return float(-(target * torch.log_softmax(torch.from_numpy(logits), 1)).sum(1).mean())


def git_commit() -> str:
    """The commit the code is at, with "-dirty" if files differ from it, or "unknown" outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def read_checkpoint(path: Path, *needed: str) -> dict:
    """What a checkpoint holds, on the CPU; refuses a file that lacks an entry of `needed`."""
    try:
        state = torch.load(path, map_location="cpu")
    except Exception as error:  # noqa: BLE001  torch.load raises whatever the bytes of a foreign file lead it to
        raise ValueError(f"{path} is no checkpoint of this training ({error}): start from one that it wrote") from None
    missing = [name for name in needed if not isinstance(state, dict) or name not in state]
    if missing:
        raise ValueError(
            f"{path} is no checkpoint of this training (it lacks {', '.join(missing)}): start from one that it wrote"
        )
    return state


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint or of a .npz file."""
    if path.suffix == ".npz":
        try:
            with np.load(path) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} holds no weights ({error}): start from a .npz or a checkpoint that a training wrote"
            ) from None
    return read_checkpoint(path, "network")["network"]


def check_weights(network: nn.Module, weights: dict[str, torch.Tensor], path: Path, kind: str = "hhnet_fast") -> None:
    """Refuses the weights of another network than `network`, whose name is `kind`."""
    known = network.state_dict()
    for name in [name for name, _ in network.named_parameters()] + list(weights):
        if name not in weights or name not in known or weights[name].shape != known[name].shape:
            raise ValueError(f"{path} holds the weights of another network ('{name}' differs): start from one of {kind}")


def check_set(state: dict, training: data.PatchSet, path: Path) -> None:
    """Refuses to go on with a checkpoint of another training set."""
    if state["training_set"] != training.sha256:
        raise ValueError(f"{path} was trained on another set: leave out --resume, or choose another --out")


def check_apart(sets: dict[str, data.PatchSet]) -> None:
    """Refuses sets that have slides in common with the first of them, or val with a test set."""
    slides = {name: set(patches.slide.tolist()) for name, patches in sets.items()}
    for one, other in itertools.combinations(slides, 2):
        common = sorted(slides[one] & slides[other])
        if common and not (one.startswith("test_") and other.startswith("test_")):
            raise ValueError(f"slides {common} are in {one} and in {other}: build {other} from other slides")


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(training: data.PatchSet, start_from: Path | None) -> HhnetFast:
    """A network that knows the set's range, edges and feature statistics; fresh, or with the weights of another run."""
    z_max_um = training.manifest["config"]["z_max_um"]
    network = HhnetFast(training.edges, (-z_max_um, z_max_um))
    if start_from is not None:
        weights = read_weights(start_from)
        # The histogram's axis belongs to the set: another objective has other class edges.
        weights = {name: value for name, value in weights.items() if not name.startswith("bin_")}
        check_weights(network, weights, start_from)
        network.load_state_dict(weights, strict=False)
    network.temperature.fill_(1.0)
    network.variance_scale.fill_(1.0)
    network.handcrafted_mean.copy_(training.handcrafted.mean(0))
    network.handcrafted_scale.copy_(training.handcrafted.std(0).clamp_min(1e-6))
    return network.to(memory_format=torch.channels_last)


def check_range(answers_um: float | None, training: data.PatchSet) -> None:
    """Refuses to answer for heights that the set does not reach, or for less than all classes."""
    reached_um = training.manifest["config"]["z_max_um"]
    if answers_um is not None and not training.edges.far_um < answers_um <= reached_um:
        raise ValueError(
            f"--answers-um {answers_um:g}: must lie above {training.edges.far_um:g} µm, up to {reached_um:g} µm which the set reaches"
        )


def train_epoch(network, average, optimiser, scaler, training, random, place, settings) -> float:
    """One pass; `place` is (epoch, epochs). Returns the mean loss. On a GPU in mixed precision, the loss itself in float32."""
    epoch, epochs = place
    network.train()
    where = network.bin_edges.device
    order = torch.randperm(len(training), generator=random)
    crop_px = settings.crop if epoch < settings.crop_share * epochs else data.POOLED_PX
    steps = max(1, len(order) // settings.batch)
    total, started = 0.0, time.monotonic()
    for step in range(steps):
        rate = learning_rate((epoch + step / steps) / epochs, settings.rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = order[step * settings.batch : (step + 1) * settings.batch]
        image = data.augment(training.pooled[rows], random, crop_px)
        features = data.withhold(network.standardise(training.handcrafted[rows].to(where)).cpu(), random)
        image, seen = data.empty_some(image, random, settings.empty)
        with torch.autocast(where.type, enabled=scaler.is_enabled()):
            logits = network(image.to(where), features.to(where))
        known = (seen & training.known[rows]).to(where)
        value = loss(network, logits.float(), training.z_um[rows].to(where), known)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(value).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        scaler.step(optimiser)
        scaler.update()
        average.update(network)
        total += value.item()
        if step % 20 == 19:
            seconds = (time.monotonic() - started) / (step + 1)
            print(f"  epoch {epoch} step {step + 1}/{steps} loss {total / (step + 1):.3f} ({seconds:.2f} s/step)", flush=True)
    return total / steps


def save(path: Path, **state) -> None:
    """A checkpoint, moved into place when complete."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def fit(settings: argparse.Namespace) -> dict:
    """The whole run; returns the run card."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    checkpoint = settings.out / "checkpoint.pt"

    training = data.load(settings.data / "train", *settings.more, incomplete=settings.incomplete)
    check_range(settings.answers_um, training)
    held_out = data.load(settings.data / "val")
    folders = [path for path in sorted(settings.data.glob("test_*")) if (path / "manifest.json").exists()]
    tests = {path.name: data.load(path) for path in folders}
    check_apart({"train": training, "val": held_out, **tests})
    network = build(training, settings.start_from)
    network.to(device())
    scaler = torch.cuda.amp.GradScaler(enabled=device().type == "cuda")
    average = Average(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=0.02)
    random = torch.Generator().manual_seed(settings.seed)
    history, best, start = [], math.inf, 0
    if settings.resume and checkpoint.exists():
        parts = ("network", "average", "steps", "optimiser", "scaler", "random", "history", "best", "training_set")
        state = read_checkpoint(checkpoint, *parts)
        check_weights(network, state["network"], checkpoint)
        check_set(state, training, checkpoint)
        network.load_state_dict(state["network"])
        average.network.load_state_dict(state["average"])
        average.steps = state["steps"]
        optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
        random.set_state(state["random"])
        history, best, start = state["history"], state["best"], len(state["history"])
    print(f"{len(training)} patches to learn, {len(held_out)} held out, {macs(network) / 1e6:.1f} MMAC per patch", flush=True)

    sample = data.shards(settings.data / "val")[0].read()[0][:8].copy(), held_out.handcrafted[:8].numpy()
    card = {
        "model": "hhnet_fast",
        "seed": settings.seed,
        "git_commit": git_commit(),
        "settings": {key: str(value) for key, value in vars(settings).items()},
        "training_set": training.sha256,
        "device": str(device()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "macs_per_patch": macs(network),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "z_range_um": network.config["z_range_um"],
        "training_patches": len(training),
        "training_slides": len(set(training.slide.tolist())),
    }

    for epoch in range(start, settings.epochs):
        started = time.monotonic()
        train_loss = train_epoch(network, average, optimiser, scaler, training, random, (epoch, settings.epochs), settings)
        found = report.predict(average.network, held_out)
        val_loss = validation_loss(average.network, held_out, found["logits"])
        scores = report.score(found, held_out)
        history.append({"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, **scores})
        shown = ("patch_accuracy", "image_accuracy", "wrong_direction_images", "abs_error_um_within_2um", "bias_um_in_focus")
        line = ", ".join(f"{name} {scores[name]}" for name in shown)
        print(
            f"epoch {epoch}: loss {train_loss:.3f}, held out {val_loss:.3f}, {line}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
        if val_loss < best or settings.choose == "last":
            best = val_loss
            chosen = copy.deepcopy(average.network).cpu()
            fit_certainty(chosen, held_out, found["logits"])
            save(settings.out / "best.pt", network=chosen.state_dict(), epoch=epoch)
            summary = {"val": {name: scores[name] for name in shown}, "epoch": epoch}
            export(chosen, settings.export, training, summary, sample, answers_um=settings.answers_um)
        save(
            checkpoint,
            network=network.state_dict(),
            average=average.network.state_dict(),
            steps=average.steps,
            optimiser=optimiser.state_dict(),
            scaler=scaler.state_dict(),
            training_set=training.sha256,
            random=random.get_state(),
            history=history,
            best=best,
        )
        report.write_json(settings.out / "history.json", history)
        report.write_json(settings.out / "run.json", card)

    return finish(settings, average.network.cpu(), (training, held_out, tests), sample, history, card)


def finish(settings, network, sets, sample, history, card) -> dict:
    """Score the best weights on every held-out set, export them with the scores, write the run card and the curve."""
    training, held_out, tests = sets
    state = read_checkpoint(settings.out / "best.pt", "network", "epoch")
    network.load_state_dict(state["network"])
    fit_certainty(network, held_out, report.predict(network, held_out)["logits"])
    card["chosen_epoch"] = state["epoch"]
    card["temperature"], card["variance_scale"] = float(network.temperature), float(network.variance_scale)
    card["scores"] = {
        name: report.score(report.predict(network, patches), patches) for name, patches in {"val": held_out, **tests}.items()
    }
    headline = ("patch_accuracy", "image_accuracy", "wrong_direction_rate", "abs_error_um_within_2um", "bias_um_in_focus")
    summary = {name: {key: scores[key] for key in headline} for name, scores in card["scores"].items()}
    card["export_difference"] = export(network, settings.export, training, summary, sample, answers_um=settings.answers_um)
    with report.whole(settings.out / "weights.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, **{name: value.numpy() for name, value in network.state_dict().items()})
    report.write_json(settings.out / "run.json", card)
    try:
        report.plot(history, settings.out / "learning_curve.png")
    except ImportError:
        print("no learning curve: matplotlib is not installed", flush=True)
    print(json.dumps(card["scores"], indent=1), flush=True)
    return card


if __name__ == "__main__":
    try:
        fit(arguments())
    except (OSError, ValueError) as error:
        raise SystemExit(f"train: {error}") from None
