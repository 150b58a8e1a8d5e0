"""The network of the HH-Net paper as its Table 1 has it, for a GPU: 33 GMAC a patch.

    python3 -m training.paper --data DATA --out out/train/paper --epochs 30
    python3 -m training.paper --data DATA --out out/train/paper --steps 3      # a look at whether it runs

Thirteen convolutions in five groups with max pooling between them; 224 nodes from what they find beside 32 nodes from the 18 features of
the frame; 256 nodes; 7 classes. Adam at 0.001, dropout 0.7 after the 224 + 32, 0.5 after the 256. The paper does not say how pixels are
scaled nor how weights begin: here pixels run from -1 to 1 and weights are He's.

The model file keeps the contract of the package. The paper's network knows classes only, so its defocus is the mean of the classes' middles under
its probabilities, with the variance that goes with it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import data
from .data import CLASSES, HANDCRAFTED, PATCH_PX, ClassEdges
from .export import export
from .report import whole, write_json
from .train import check_apart, check_set, check_weights, device, git_commit, read_checkpoint, save

#: Table 1: kernel side and channels of the convolutions of each group.
GROUPS = ((5, (64, 64)), (3, (128, 128)), (3, (256, 256, 256)), (3, (512, 512, 512)), (3, (512, 512, 512)))
CONV_NODES, HANDCRAFTED_NODES, HIDDEN = 224, 32, 256


class Hhnet(nn.Module):
    """Logits of the seven classes from uint8 patches [n, 300, 300, 3] and raw frame features [n, 18]."""

    def __init__(self, edges: ClassEdges, z_range_um: tuple[float, float]):
        super().__init__()
        layers, inputs = [], 3
        for group, (kernel, widths) in enumerate(GROUPS):
            for outputs in widths:
                layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
                inputs = outputs
            if group < len(GROUPS) - 1:
                layers.append(nn.MaxPool2d(2))
        self.convolutions = nn.Sequential(*layers)
        side = PATCH_PX // 2 ** (len(GROUPS) - 1)
        self.from_convolutions = nn.Linear(side * side * inputs, CONV_NODES)
        self.from_handcrafted = nn.Linear(HANDCRAFTED, HANDCRAFTED_NODES)
        self.joined_dropout = nn.Dropout(0.7)
        self.hidden = nn.Linear(CONV_NODES + HANDCRAFTED_NODES, HIDDEN)
        self.hidden_dropout = nn.Dropout(0.5)
        self.classes = nn.Linear(HIDDEN, CLASSES)
        self.register_buffer("handcrafted_mean", torch.zeros(HANDCRAFTED))
        self.register_buffer("handcrafted_scale", torch.ones(HANDCRAFTED))
        knots = [z_range_um[0], *edges.ascending, z_range_um[1]]
        pairs = list(zip(knots, knots[1:]))[::-1]
        self.register_buffer("middles_um", torch.tensor([(a + b) / 2 for a, b in pairs]))
        self.register_buffer("within_um2", torch.tensor([(b - a) ** 2 / 12 for a, b in pairs]))
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, patches: torch.Tensor, handcrafted: torch.Tensor) -> torch.Tensor:
        image = patches.permute(0, 3, 1, 2).float() * (2 / 255) - 1
        seen = self.from_convolutions(self.convolutions(image).flatten(1))
        standard = ((handcrafted - self.handcrafted_mean) / self.handcrafted_scale).clamp(-4.0, 4.0)
        joined = torch.cat([F.relu(seen), F.relu(self.from_handcrafted(standard))], 1)
        hidden = F.relu(self.hidden(self.joined_dropout(joined)))
        return self.classes(self.hidden_dropout(hidden))


class DeployedPaper(nn.Module):
    """The contract every model of the package keeps."""

    def __init__(self, network: Hhnet):
        super().__init__()
        self.network = network

    def forward(self, patches: torch.Tensor, handcrafted: torch.Tensor):
        probability = torch.softmax(self.network(patches, handcrafted), 1)
        middles = self.network.middles_um
        defocus_um = probability @ middles
        spread = (probability * (middles - defocus_um[:, None]) ** 2).sum(1)
        return probability, defocus_um, torch.log(spread + probability @ self.network.within_um2)


def batches(folder: Path, edges: ClassEdges, size: int, random: np.random.Generator):
    """Shuffled batches, flipped and turned, from shards read one after the other: a set need not fit in memory."""
    column = data.label_columns(data.read_manifest(folder)[0])[0]
    shards = data.shards(folder)
    random.shuffle(shards)
    for shard in shards:
        patches, handcrafted, labels = shard.read()
        z_um = labels[:, column]
        order = random.permutation(len(patches))
        for start in range(0, len(order), size):
            rows = np.sort(order[start : start + size])
            image = np.rot90(patches[rows], random.integers(4), (1, 2))
            image = image[:, :, ::-1] if random.integers(2) else image
            truth = edges.classify(z_um[rows])
            yield torch.from_numpy(image.copy()), torch.from_numpy(handcrafted[rows]), torch.from_numpy(truth)


def held_out_scores(
    network: Hhnet, folder: Path, edges: ClassEdges, where: torch.device, most: int | None
) -> tuple[float, float]:
    """Mean cross-entropy, and share of the patches judged right, of the first `most`."""
    network.eval()
    right = count = 0
    total = 0.0
    with torch.no_grad():
        for image, handcrafted, truth in batches(folder, edges, 32, np.random.default_rng(0)):
            logits = network(image.to(where), handcrafted.to(where)).float().cpu()
            total += float(F.cross_entropy(logits, truth, reduction="sum"))
            right += int((logits.argmax(1) == truth).sum())
            count += len(truth)
            if most is not None and count >= most:
                break
    return total / max(1, count), right / max(1, count)


def plot(history: list[dict], path: Path) -> None:
    """The learning curve as a picture, as the paper's Fig. 5: loss and accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs = [row["epoch"] for row in history]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(epochs, [row["train_loss"] for row in history], "o-", label="training")
    left.plot(epochs, [row["val_loss"] for row in history], "o-", label="held-out slides")
    left.set(xlabel="epoch", ylabel="cross-entropy")
    left.legend()
    right.plot(epochs, [100 * row["patch_accuracy"] for row in history], "o-")
    right.set(xlabel="epoch", ylabel="held-out patches right, %")
    with whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)


def fit(settings: argparse.Namespace) -> dict:
    """The whole run; returns the run card."""
    torch.manual_seed(settings.seed)
    where = device()
    settings.out.mkdir(parents=True, exist_ok=True)
    training, held_out = data.load(settings.data / "train"), data.load(settings.data / "val")
    check_apart({"train": training, "val": held_out})
    z_max_um = training.manifest["config"]["z_max_um"]
    network = Hhnet(training.edges, (-z_max_um, z_max_um))
    network.handcrafted_mean.copy_(training.handcrafted.mean(0))
    network.handcrafted_scale.copy_(training.handcrafted.std(0).clamp_min(1e-6))
    network.to(where)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.rate)
    scaler = torch.cuda.amp.GradScaler(enabled=where.type == "cuda")
    checkpoint = settings.out / "checkpoint.pt"
    history: list[dict] = []
    if settings.resume and checkpoint.exists():
        state = read_checkpoint(checkpoint, "network", "optimiser", "scaler", "random", "history", "training_set")
        check_weights(network, state["network"], checkpoint, "hhnet")
        check_set(state, training, checkpoint)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
        # Dropout goes on where it stopped.
        torch.set_rng_state(state["random"])
        history = state["history"]
    steps = 0
    for epoch in range(len(history), settings.epochs):
        network.train()
        started, losses = time.monotonic(), []
        random = np.random.default_rng(settings.seed + epoch)
        for image, handcrafted, truth in batches(settings.data / "train", training.edges, settings.batch, random):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(where.type, enabled=where.type == "cuda"):
                value = F.cross_entropy(network(image.to(where), handcrafted.to(where)), truth.to(where))
            scaler.scale(value).backward()
            scaler.step(optimiser)
            scaler.update()
            losses.append(value.item())
            steps += 1
            print(f"  epoch {epoch} step {len(losses)} loss {np.mean(losses):.3f}", flush=True)
            if settings.steps and steps >= settings.steps:
                break
        most = 64 if settings.steps else None
        val_loss, found = held_out_scores(network, settings.data / "val", training.edges, where, most)
        train_loss = float(np.mean(losses))
        history.append({"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "patch_accuracy": found})
        shown = f"loss {train_loss:.3f}, held out {val_loss:.3f}, right {found:.4f}"
        print(f"epoch {epoch}: {shown}, {time.monotonic() - started:.0f} s", flush=True)
        save(
            checkpoint,
            network=network.state_dict(),
            optimiser=optimiser.state_dict(),
            scaler=scaler.state_dict(),
            random=torch.get_rng_state(),
            history=history,
            training_set=training.sha256,
        )
        if settings.steps and steps >= settings.steps:
            break
    network.cpu().eval()
    image, handcrafted, _ = next(batches(settings.data / "val", training.edges, 2, np.random.default_rng(0)))
    scores = {"val": {"patch_accuracy": history[-1]["patch_accuracy"]}} if history else {}
    card = {
        "model": "hhnet",
        "device": str(where),
        "seed": settings.seed,
        "git_commit": git_commit(),
        "settings": {key: str(value) for key, value in vars(settings).items()},
        "training_set": training.sha256,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "history": history,
        "export_difference": export(
            network, settings.out / "hhnet.onnx", training, scores, (image.numpy(), handcrafted.numpy()), DeployedPaper
        ),
    }
    write_json(settings.out / "run.json", card)
    try:
        plot(history, settings.out / "learning_curve.png")
    except ImportError:
        print("no learning curve: matplotlib is not installed", flush=True)
    return card


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets train and val")
    parser.add_argument("--out", type=Path, default=Path("out/train/paper"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, help="stop after so many batches")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=20180)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        print(json.dumps(fit(arguments()), indent=1))
    except (OSError, ValueError) as error:
        raise SystemExit(f"train: {error}") from None
