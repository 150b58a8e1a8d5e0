"""A trained network as an ONNX file with its metadata, checked against PyTorch before it replaces the old one."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from .data import HANDCRAFTED, PATCH_PX, PatchSet
from .model import Deployed

OPSET = 13
OUTPUTS = ("probabilities", "defocus_um", "log_variance")
#: The largest difference between the file and PyTorch that is accepted in any output, relative where the output exceeds 1.
TOLERANCE = 1e-4


def to_onnx(deployed: nn.Module, path: Path) -> None:
    """Write the graph (batch of any size) to `path`."""
    example = (torch.full((2, PATCH_PX, PATCH_PX, 3), 128, dtype=torch.uint8), torch.zeros(2, HANDCRAFTED))
    names = ["patches", "handcrafted"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deployed,
            example,
            str(path),
            opset_version=OPSET,
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "n"} for name in (*names, *OUTPUTS)},
            do_constant_folding=True,
        )


def add_metadata(
    path: Path, training: PatchSet, scores: dict, answers_um: float | None = None, whole_frames: bool = False
) -> None:
    """Store what a reader needs to trust and to use the model; it answers up to `answers_um`, or as far as it was trained."""
    answers_um = answers_um or training.manifest["config"]["z_max_um"]
    model = onnx.load(str(path))
    model.producer_name = "hhnet"
    model.producer_version = ""
    model.doc_string = "Signed defocus of a brightfield patch: class probabilities, micrometres, log variance."
    edges = training.edges
    entries = {
        "hhnet_class_edges_um": json.dumps([edges.in_focus_um, edges.near_um, edges.middle_um, edges.far_um]),
        "hhnet_objective": training.manifest["config"]["objective"]["name"],
        "hhnet_pixel_size_um": f"{training.manifest['object_pixel_um']:.6g}",
        "hhnet_z_range_um": json.dumps([-answers_um, answers_um]),
        "hhnet_training_set": training.sha256,
        "hhnet_scores": json.dumps(scores, sort_keys=True),
    }
    if whole_frames:
        entries["hhnet_whole_frames"] = "true"
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def differences(deployed: nn.Module, path: Path, patches: np.ndarray, handcrafted: np.ndarray) -> list[float]:
    """Largest difference between the file (onnxruntime) and PyTorch in each output, relative to 1 or to its size."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(list(OUTPUTS), {"patches": patches, "handcrafted": handcrafted})
    with torch.no_grad():
        expected = deployed(torch.from_numpy(patches), torch.from_numpy(handcrafted))
    pairs = zip(found, (tensor.numpy() for tensor in expected))
    return [float(np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b)))) for a, b in pairs]


def export(
    network: nn.Module,
    destination: Path,
    training: PatchSet,
    scores: dict,
    sample: tuple[np.ndarray, np.ndarray],
    contract: type[nn.Module] = Deployed,
    answers_um: float | None = None,
) -> float:
    """Wrap in `contract`, write, check on `sample`, and only then move to `destination` in one step; returns the largest difference found."""
    was_training = network.training
    network.eval()
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(destination.name + ".partial")
    deployed = contract(network).eval()
    to_onnx(deployed, partial)
    add_metadata(partial, training, scores, answers_um, getattr(network, "whole_frames", False))
    found = differences(deployed, partial, *sample)
    network.train(was_training)
    if max(found) > TOLERANCE:
        partial.unlink()
        shown = ", ".join(f"{name} {difference:.1e}" for name, difference in zip(OUTPUTS, found))
        raise RuntimeError(f"the exported graph differs from PyTorch: {shown}; allowed is {TOLERANCE}")
    os.replace(partial, destination)
    return max(found)
