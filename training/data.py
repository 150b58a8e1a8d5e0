"""Labelled patches as the dataset builder writes them, and the distance classes.

A set is a folder of shards, `patches-NNNN.npy` (uint8 [n, 300, 300, 3]), `handcrafted-NNNN.npy` (float32 [n, 18], raw) and
`labels-NNNN.npy` (float64 [n, columns]), with one `manifest.json` that lists the shards and names the label columns: `defocus_um`
(positive when the lens is too far from the slide), `slide_seed`, `frame`, `blank`, and what else the builder knows. A shard counts when the
manifest lists it. The features are computed by the Rust builder only; nothing here repeats them.
"""

import hashlib
import json
from dataclasses import dataclass, replace
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
    blank: np.ndarray  # bool [n]; a patch with next to nothing in it, which has no vote
    manifest: dict
    sha256: str  # of the manifests, and of what was read: pixels, features, labels

    def __len__(self) -> int:
        return len(self.z_um)

    @property
    def edges(self) -> ClassEdges:
        return ClassEdges.from_manifest(self.manifest)

    def only(self, rows: np.ndarray) -> "PatchSet":
        """The rows of a mask as a set of their own."""
        chosen = torch.from_numpy(np.flatnonzero(rows))
        tensors = {name: getattr(self, name)[chosen] for name in ("pooled", "handcrafted", "z_um", "known")}
        return replace(self, **tensors, slide=self.slide[rows], frame=self.frame[rows], blank=self.blank[rows])

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


@dataclass(frozen=True)
class Shard:
    """The three files of a shard, and the rows the manifest says they have."""

    patches: Path
    handcrafted: Path
    labels: Path
    rows: int

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patches (mapped, not read), features and labels; refuses files that are not what the manifest says."""
        arrays = []
        for path, shape in ((self.patches, (PATCH_PX, PATCH_PX, 3)), (self.handcrafted, (HANDCRAFTED,)), (self.labels, None)):
            try:
                array = np.load(path, mmap_mode="r" if path == self.patches else None)
            except (OSError, EOFError, ValueError) as error:
                raise ValueError(f"{path} cannot be read ({error}): build the set again") from None
            if len(array) != self.rows or (shape and array.shape[1:] != shape):
                raise ValueError(f"{path}: shape {array.shape} is not that of {self.rows} rows: build the set again")
            arrays.append(array)
        if not (np.isfinite(arrays[1]).all() and np.isfinite(arrays[2]).all()):
            raise ValueError(f"{self.patches}: its features or labels hold numbers that are not finite: build the set again")
        return arrays[0], arrays[1].astype(np.float32), arrays[2]


def read_manifest(folder: Path, incomplete: bool = False) -> tuple[dict, bytes]:
    """The manifest of a set and the bytes it came from; `incomplete` accepts one that is still being built."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no data set, manifest.json is missing: build one with hhnet dataset")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        whole = manifest["complete"]
        for key in ("class_edges", "object_pixel_um", "config"):
            manifest[key]
        for shard in manifest["shards"]:
            int(shard["number"]), int(shard["patches"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the manifest of a data set ({error!r}): build the set again") from None
    if not (whole or incomplete):
        raise ValueError(f"{folder} is not complete: run its build again with --resume")
    return manifest, raw


def shards(folder: Path, incomplete: bool = False) -> list[Shard]:
    """The shards the manifest of a set lists, in order of their numbers."""
    folder = Path(folder)
    listed = read_manifest(folder, incomplete)[0]["shards"]
    if not listed:
        raise ValueError(f"{folder} lists no shards: build the set first")
    return [
        Shard(*(folder / f"{kind}-{row['number']:04}.npy" for kind in ("patches", "handcrafted", "labels")), row["patches"])
        for row in sorted(listed, key=lambda row: row["number"])
    ]


def label_columns(manifest: dict) -> list[int]:
    """Where the labels keep defocus, slide and frame, and whether a patch is blank if they say so."""
    names = manifest.get("label_columns", ["defocus_um", "slide_seed", "frame"])
    try:
        columns = [names.index(name) for name in ("defocus_um", "slide_seed", "frame")]
    except ValueError as error:
        raise ValueError(f"the manifest's label_columns are {names}: {error}") from None
    return columns + ([names.index("blank")] if "blank" in names else [])


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
    found = [
        (shard, label_columns(manifest), not manifest["config"].get("empty", False))
        for path, (manifest, _) in zip(paths, manifests)
        for shard in shards(path, incomplete)
    ]
    count = sum(shard.rows for shard, *_ in found)
    # Filled in place: two copies of a large set would not fit.
    pooled = np.empty((count, 3, POOLED_PX, POOLED_PX), np.int16)
    handcrafted = np.empty((count, HANDCRAFTED), np.float32)
    label, known = np.zeros((count, 4)), np.empty(count, bool)
    end = 0
    digest = hashlib.sha256(b"".join(raw for _, raw in manifests))
    for shard, columns, is_known in found:
        patches, features, rows = shard.read()
        begin, end = end, end + shard.rows
        handcrafted[begin:end], label[begin:end, : len(columns)], known[begin:end] = features, rows[:, columns], is_known
        for start in range(0, len(patches), 256):
            pooled[begin + start : min(begin + start + 256, end)] = pool(patches[start : start + 256])
        for part in (pooled[begin:end], features, np.ascontiguousarray(rows)):
            digest.update(part)
    # Nobody can tell the height of a patch with nothing in it.
    known &= label[:, 3] == 0
    return PatchSet(
        pooled=torch.from_numpy(pooled),
        handcrafted=torch.from_numpy(handcrafted),
        z_um=torch.from_numpy(label[:, 0].astype(np.float32)),
        known=torch.from_numpy(known),
        slide=label[:, 1].astype(np.int64),
        frame=label[:, 2].astype(np.int64),
        blank=label[:, 3] != 0,
        manifest=first,
        sha256=digest.hexdigest(),
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
