"""Scores of a network on a set: per patch, per image, bias and wrong directions; and the learning curve.

    python3 -m training.report models/hhnet_fast.onnx DATA/test_paper DATA/test_cont

scores a model file, run by onnxruntime on the sets as they lie on disk, and prints JSON.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from .data import CLASSES, ClassEdges, PatchSet, label_columns, load, read_manifest, shards
from .model import Histogram


def predict(network: Histogram, patches: PatchSet, batch: int = 256) -> dict[str, np.ndarray]:
    """Probabilities, defocus and variance (µm²) of every patch, and the moments in u they come from."""
    network.eval()
    where = network.bin_edges.device
    parts = []
    with torch.no_grad():
        for start in range(0, len(patches), batch):
            rows = slice(start, start + batch)
            image = patches.pooled[rows].float().contiguous(memory_format=torch.channels_last)
            logits = network(image.to(where), network.standardise(patches.handcrafted[rows].to(where)))
            probability, mean, variance = network.moments(logits)
            parts.append([part.cpu() for part in (probability @ network.membership, mean, variance, logits)])
    probability, mean, variance, logits = (torch.cat(column).numpy() for column in zip(*parts))
    slope_um = network.scale_um * np.cosh(mean)
    return {
        "probabilities": probability,
        "defocus_um": network.scale_um * np.sinh(mean),
        "variance_um2": variance * slope_um**2,
        "logits": logits,
    }


def predict_file(model: Path, folder: Path, batch: int = 120) -> dict[str, np.ndarray]:
    """The same from a model file, by onnxruntime, on the unpooled patches of a set's folder; a frame at a time if it sees whole frames."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = ["probabilities", "defocus_um", "log_variance"]
    whole_frames = session.get_modelmeta().custom_metadata_map.get("hhnet_whole_frames") == "true"
    columns = label_columns(read_manifest(folder)[0])[1:3]
    parts = []
    for shard in shards(folder):
        patches, handcrafted, labels = shard.read()
        ends = np.flatnonzero((np.diff(labels[:, columns], axis=0) != 0).any(1)) + 1 if whole_frames else ()
        starts = [0, *ends] if whole_frames else range(0, len(patches), batch)
        for start, end in zip(starts, [*starts[1:], len(patches)]):
            rows = slice(start, end)
            parts.append(session.run(names, {"patches": np.array(patches[rows]), "handcrafted": handcrafted[rows]}))
    probability, defocus_um, log_variance = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {"probabilities": probability, "defocus_um": defocus_um, "variance_um2": np.exp(log_variance)}


def certainty(probabilities: np.ndarray) -> np.ndarray:
    """1 - H / log C: 1 for one certain class, 0 for no idea."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)
    return 1 - entropy / np.log(CLASSES)


def vote(probabilities: np.ndarray) -> np.ndarray:
    """The image's distribution: the patches' mean, weighted by their certainty."""
    weight = np.maximum(certainty(probabilities), 1e-6)
    return (probabilities * weight[:, None]).sum(0) / weight.sum()


def robust_mean(z_um: np.ndarray, variance_um2: np.ndarray, rounds: int = 8) -> float:
    """The image's defocus: inverse-variance mean, reweighted by Huber's rule about the weighted median."""
    weight = 1 / variance_um2
    order = np.argsort(z_um)
    cumulative = np.cumsum(weight[order])
    centre = float(z_um[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])
    for _ in range(rounds):
        distance = np.abs(z_um - centre) / np.sqrt(variance_um2)
        trusted = weight * np.minimum(1.0, 1.5 / np.maximum(distance, 1e-9))
        centre = float((z_um * trusted).sum() / trusted.sum())
    return centre


def direction(classes: np.ndarray) -> np.ndarray:
    """+1 too far, 0 in focus, -1 too close, from network outputs 0..7."""
    return np.sign(4 - np.asarray(classes))


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Mean gap between the winning probability and how often it is right."""
    top, right = probabilities.max(1), probabilities.argmax(1) == truth
    place = np.minimum((top * bins).astype(int), bins - 1)
    gaps = [abs(top[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in set(place.tolist())]
    return float(sum(gaps))


def score(found: dict[str, np.ndarray], patches: PatchSet) -> dict:
    """All figures of one set, from the predictions for its patches, as plain numbers. Blank patches have no vote."""
    if patches.blank.any():
        found = {name: values[~patches.blank] for name, values in found.items()}
        patches = patches.only(~patches.blank)
    edges: ClassEdges = patches.edges
    probabilities = found["probabilities"]
    z_um = patches.z_um.numpy()
    truth = edges.classify(z_um)
    patch_right = probabilities.argmax(1) == truth

    images = []
    for image in range(patches.images.max() + 1):
        rows = patches.images == image
        voted = vote(probabilities[rows])
        estimate = robust_mean(found["defocus_um"][rows], found["variance_um2"][rows])
        images.append((z_um[rows].mean(), estimate, voted.argmax(), voted.max(), certainty(voted)))
    z_image, z_found, class_found, _, sure = map(np.array, zip(*images))
    class_true = edges.classify(z_image)
    out_of_focus = np.abs(z_image) > edges.in_focus_um
    wrong = out_of_focus & (direction(class_found) == -np.sign(z_image))
    wrong_um = out_of_focus & (np.sign(z_found) == -np.sign(z_image))
    error = z_found - z_image

    def near(limit_um: float) -> np.ndarray:
        return np.abs(z_image) <= limit_um

    def share(right: np.ndarray) -> float | None:
        return round(float(right.mean()), 4) if len(right) else None

    def median(values: np.ndarray) -> float | None:
        return round(float(np.median(values)), 4) if len(values) else None

    return {
        "patches": len(patches),
        "images": len(images),
        "slides": len(set(patches.slide.tolist())),
        "patch_accuracy": round(float(patch_right.mean()), 5),
        "patch_calibration_error": round(expected_calibration_error(probabilities, truth), 4),
        "patch_accuracy_by_class": {
            str(4 - c): round(float(patch_right[truth == c].mean()), 4) for c in range(CLASSES) if (truth == c).any()
        },
        "image_accuracy": round(float((class_found == class_true).mean()), 5),
        "image_certainty_mean": round(float(sure.mean()), 4),
        "wrong_direction_images": int(wrong.sum()),
        "wrong_direction_rate": round(float(wrong.sum() / max(1, out_of_focus.sum())), 5),
        "wrong_sign_images": int(wrong_um.sum()),
        "sign_right_beyond_5um": share(~wrong_um[~near(5.0)] & ~wrong[~near(5.0)]),
        "wrong_direction_z_um": [round(float(z), 2) for z in z_image[wrong | wrong_um]][:40],
        "wrong_direction_certainty": [round(float(c), 3) for c in sure[wrong | wrong_um]][:40],
        "out_of_focus_images": int(out_of_focus.sum()),
        "abs_error_um_within_2um": median(np.abs(error[near(2.0)])),
        "abs_error_p95_um_within_2um": round(float(np.percentile(np.abs(error[near(2.0)]), 95)), 4)
        if near(2.0).any()
        else None,
        "abs_error_um_within_5um": median(np.abs(error[near(5.0)])),
        "abs_error_um": median(np.abs(error)),
        "relative_error_beyond_5um": median(np.abs(error[~near(5.0)] / z_image[~near(5.0)])),
        "bias_um_in_focus": median(error[near(edges.in_focus_um)]),
    }


def plot(history: list[dict], path: Path) -> None:
    """The learning curve as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs = [row["epoch"] for row in history]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    left.plot(epochs, [row["train_loss"] for row in history], label="training")
    left.plot(epochs, [row["val_loss"] for row in history], label="held-out slides")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(epochs, [100 * (1 - row["patch_accuracy"]) for row in history], label="patches")
    right.plot(epochs, [100 * (1 - row["image_accuracy"]) for row in history], label="images")
    right.set(xlabel="epoch", ylabel="wrong class, %")
    right.set_ylim(bottom=0)
    right.legend()
    figure.tight_layout()
    with whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the name `path` when it is finished: a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict | list) -> None:
    """Write all of it or nothing."""
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sets", type=Path, nargs="+")
    settings = parser.parse_args()
    if not settings.model.is_file():
        raise SystemExit(f"report: there is no model {settings.model}: give the path of an ONNX file")
    try:
        scores = {folder.name: score(predict_file(settings.model, folder), load(folder)) for folder in settings.sets}
    except (OSError, ValueError) as error:
        raise SystemExit(f"report: {error}") from None
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
