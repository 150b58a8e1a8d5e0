"""Labelled patches as the dataset builder writes them, and the distance classes.

A set is a folder of shards, `patches-NNNN.npy` (uint8 [n, 300, 300, 3]), `handcrafted-NNNN.npy` (float32 [n, 18], raw) and
`labels-NNNN.npy` (float32 [n, 3]: defocus in µm, slide, frame), with one `manifest.json`. Defocus is positive when the
lens is too far from the slide. The features are computed by the Rust builder only; nothing here repeats them.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

PATCH_PX = 300
#: Side of the squares whose pixels are added up first; `model` says why nothing is lost.
POOL = 3
POOLED_PX = PATCH_PX // POOL
#: Largest sum of such a square.
POOLED_MAX = 255 * POOL * POOL
HANDCRAFTED = 18
CLASSES = 7
#: The four heights, in the order they are stored in the model file.
EDGE_NAMES = ("in_focus_um", "near_um", "middle_um", "far_um")


@dataclass(frozen=True)
class ClassEdges:
    """Heights between neighbouring classes, µm; the same rule as `src/classes.rs`."""

    in_focus_um: float = 0.715
    near_um: float = 5.0
    middle_um: float = 11.4
    far_um: float = 30.0

    @property
    def ascending(self) -> list[float]:
        """The six edges from closest to farthest: class 6 (index -2) lies below the first, class 0 above the last."""
        return [-self.near_um, -self.in_focus_um, self.in_focus_um, self.near_um, self.middle_um, self.far_um]

    def classify(self, z_um: np.ndarray) -> np.ndarray:
        """Network output (0..7) of each defocus; a height exactly on an edge belongs to the class nearer to focus."""
        z_um = np.asarray(z_um, dtype=np.float64)
        edges = np.array(self.ascending)
        above = (z_um[..., None] > edges[2:]).sum(-1) + (z_um[..., None] >= edges[:2]).sum(-1)
        return 6 - above

    @classmethod
    def from_manifest(cls, manifest: dict) -> "ClassEdges":
        """The edges a manifest names."""
        return cls(**{name: float(manifest["class_edges"][name]) for name in EDGE_NAMES})


@dataclass(frozen=True)
class PatchSet:
    """A whole set in memory. Images are sums of 3x3 pixels, 0..2295."""

    pooled: torch.Tensor  # int16 [n, 3, 100, 100]
    handcrafted: torch.Tensor  # float32 [n, 18]
    z_um: torch.Tensor  # float32 [n]
    known: torch.Tensor  # bool [n]; false for empty glass, whose defocus nobody can tell
    slide: np.ndarray  # int64 [n]
    frame: np.ndarray  # int64 [n]
    manifest: dict
    manifest_sha256: str

    def __len__(self) -> int:
        return len(self.z_um)

    @property
    def edges(self) -> ClassEdges:
        return ClassEdges.from_manifest(self.manifest)

    @property
    def images(self) -> np.ndarray:
        """Number of the image (slide and frame) each patch was cut from, 0..images."""
        _, image = np.unique(np.stack([self.slide, self.frame]), axis=1, return_inverse=True)
        return image.reshape(-1)


def pool(patches: np.ndarray) -> np.ndarray:
    """Sums of 3x3 pixels, uint8 [n, 300, 300, 3] to int16 [n, 3, 100, 100]; exact."""
    rows = sum(patches[:, row::POOL].astype(np.int16) for row in range(POOL))
    sums = rows.reshape(len(patches), POOLED_PX, POOLED_PX, POOL, 3).sum(axis=3, dtype=np.int16)
    return np.ascontiguousarray(sums.transpose(0, 3, 1, 2))


def shards(folder: Path) -> list[tuple[Path, Path, Path]]:
    """The (patches, handcrafted, labels) files of a set, in order."""
    found = sorted(folder.glob("patches-*.npy"))
    if not found:
        raise FileNotFoundError(f"no patches-*.npy in {folder}: build the set first")
    names = [path.name.removeprefix("patches-") for path in found]
    return [(path, folder / f"handcrafted-{name}", folder / f"labels-{name}") for path, name in zip(found, names)]


def read_manifest(folder: Path, incomplete: bool = False) -> tuple[dict, bytes]:
    """The manifest of a set and the bytes it came from; `incomplete` accepts one that is still being built."""
    raw = (folder / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    if not (manifest["complete"] or incomplete):
        raise ValueError(f"{folder} is not complete: run its build again with --resume")
    return manifest, raw


def load(*folders: str | Path, incomplete: bool = False) -> PatchSet:
    """Read one set, or several of the same objective as one; the first manifest stands for all.

    Refuses shards that disagree in length or hold numbers that are not finite. `incomplete` takes what the manifests list
    so far, for a first look while a set is being built.
    """
    paths = [Path(folder) for folder in folders]
    manifests = [read_manifest(path, incomplete) for path in paths]
    first = manifests[0][0]
    for path, (manifest, _) in zip(paths, manifests):
        if any(manifest[key] != first[key] for key in ("class_edges", "object_pixel_um")):
            raise ValueError(f"{path} is of another objective or pixel size than {paths[0]}: train on one at a time")
    counts = [sum(shard["patches"] for shard in manifest["shards"]) for manifest, _ in manifests]
    known = [not manifest["config"].get("empty", False) for manifest, _ in manifests]
    found = [shard for path, (manifest, _) in zip(paths, manifests) for shard in shards(path)[: len(manifest["shards"])]]
    labels = [np.load(labels_path) for _, _, labels_path in found]
    label = np.concatenate(labels)
    # Filled in place: two copies of a large set would not fit.
    pooled = np.empty((len(label), 3, POOLED_PX, POOLED_PX), np.int16)
    handcrafted = np.empty((len(label), HANDCRAFTED), np.float32)
    end = 0
    for (patches_path, handcrafted_path, _), rows in zip(found, labels):
        shard, features = np.load(patches_path, mmap_mode="r"), np.load(handcrafted_path)
        if not len(shard) == len(features) == len(rows) or shard.shape[1:] != (PATCH_PX, PATCH_PX, 3):
            raise ValueError(f"{patches_path}: shape {shard.shape} does not fit its features and labels")
        if not (np.isfinite(features).all() and np.isfinite(rows).all()):
            raise ValueError(f"{patches_path}: features or labels hold numbers that are not finite")
        begin, end = end, end + len(shard)
        handcrafted[begin:end] = features
        for start in range(0, len(shard), 256):
            pooled[begin + start : min(begin + start + 256, end)] = pool(shard[start : start + 256])
    return PatchSet(
        pooled=torch.from_numpy(pooled),
        handcrafted=torch.from_numpy(handcrafted),
        z_um=torch.from_numpy(label[:, 0].astype(np.float32)),
        known=torch.from_numpy(np.repeat(known, counts)),
        slide=label[:, 1].astype(np.int64),
        frame=label[:, 2].astype(np.int64),
        manifest=first,
        manifest_sha256=hashlib.sha256(b"".join(raw for _, raw in manifests)).hexdigest(),
    )


def augment(pooled: torch.Tensor, random: torch.Generator, crop_px: int = POOLED_PX) -> torch.Tensor:
    """A crop, one of the eight flips and turns for each half of the batch, gain per channel, a tilt of the light, noise.

    Colour is touched mildly: the difference between the channels carries the sign of defocus.
    """
    n = len(pooled)
    top, left = torch.randint(POOLED_PX - crop_px + 1, (2,), generator=random).tolist()
    image = pooled[:, :, top : top + crop_px, left : left + crop_px].float()
    turned = []
    for part in image.chunk(2):
        turns, flip = torch.randint(4, (2,), generator=random).tolist()
        part = torch.rot90(part, turns, (2, 3))
        turned.append(part.flip(3) if flip % 2 else part)
    image = torch.cat(turned)

    exposure = 0.10 * torch.randn(n, 1, 1, 1, generator=random)
    balance = 0.02 * torch.randn(n, 3, 1, 1, generator=random)
    ramp = torch.linspace(-0.5, 0.5, crop_px)
    tilt = 0.03 * torch.randn(n, 2, 1, 1, generator=random)
    light = 1 + tilt[:, :1] * ramp.view(1, 1, -1, 1) + tilt[:, 1:] * ramp.view(1, 1, 1, -1)
    sigma = 8.0 * torch.rand(n, 1, 1, 1, generator=random) ** 2
    noise = torch.empty_like(image).normal_(generator=random)
    image = (image * (torch.exp(exposure + balance) * light) + sigma * noise).clamp_(0.0, POOLED_MAX)
    return image.contiguous(memory_format=torch.channels_last)


def empty_some(image: torch.Tensor, random: torch.Generator, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn a share of the rows into empty glass: their mean colour, uneven light, a camera's noise. Also the mask of the rest.

    The builder passes over patches with nothing in them; a network that never saw one would be sure about it.
    """
    n, _, height, width = image.shape
    empty = torch.rand(n, generator=random) < share
    rows = int(empty.sum())
    if rows:
        tilt = 0.03 * torch.randn(rows, 2, 1, 1, generator=random)
        down, across = torch.linspace(-0.5, 0.5, height), torch.linspace(-0.5, 0.5, width)
        light = 1 + tilt[:, :1] * down.view(1, 1, -1, 1) + tilt[:, 1:] * across.view(1, 1, 1, -1)
        # Shot noise of 6 000 to 18 000 electrons at full scale, summed over a square.
        electrons = 6000 + 12000 * torch.rand(rows, 1, 1, 1, generator=random)
        level = image[empty].mean((2, 3), keepdim=True)
        sigma = torch.sqrt(level / POOLED_MAX / electrons) * (POOLED_MAX / POOL)
        noise = torch.empty(rows, 3, height, width).normal_(generator=random)
        image[empty] = (level * light + sigma * noise).clamp(0.0, POOLED_MAX)
    return image, ~empty


def withhold(standardised: torch.Tensor, random: torch.Generator, share: float = 0.5, sigma: float = 0.3) -> torch.Tensor:
    """Noise on standardised frame features, and none of them at all for a share of the rows.

    All patches of a frame have these numbers in common, and a network left alone with them learns frames by heart.
    """
    keep = (torch.rand(len(standardised), 1, generator=random) >= share).float()
    noise = torch.empty_like(standardised).normal_(generator=random)
    return (standardised + sigma * noise) * keep
