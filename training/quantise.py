"""An 8-bit copy of an exported network, for processors with 8-bit dot products.

    python3 -m training.quantise models/hhnet_fast.onnx --data DATA/val --out models/hhnet_fast_int8.onnx

Convolutions are quantised, weights per channel and activations per tensor, with ranges seen on patches of a held-out set.
The sums of 3x3 pixels at the input, the logarithm, contrasts, colour fringes and the head stay in float32: they are cheap, and
the sign of defocus hangs on small differences there. Inputs, outputs and metadata are those of the original.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from .data import shards

#: Patches whose activations set the ranges.
CALIBRATION_PATCHES = 252
#: Patches of one calibration run.
BATCH = 12


class Patches(CalibrationDataReader):
    """Patches of a set, evenly spread over it."""

    def __init__(self, folder: Path):
        found = shards(folder)
        share = -(-CALIBRATION_PATCHES // len(found))
        self.batches = self._batches(found, share)

    @staticmethod
    def _batches(found, share):
        for shard in found:
            patches, handcrafted, _ = shard.read()
            rows = np.unique(np.linspace(0, len(patches) - 1, min(share, len(patches))).astype(int))
            for start in range(0, len(rows), BATCH):
                chosen = rows[start : start + BATCH]
                yield {"patches": np.array(patches[chosen]), "handcrafted": handcrafted[chosen]}

    def get_next(self):
        return next(self.batches, None)


def quantise(source: Path, folder: Path, destination: Path) -> None:
    """Write the 8-bit copy of `source`, its ranges from the set in `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared, quantised = Path(scratch) / "prepared.onnx", Path(scratch) / "quantised.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
        # The first one adds up pixels: whole numbers, which 8 bits would round. Fringes are grouped convolutions.
        grouped = {
            node.name
            for node in onnx.load(prepared).graph.node
            if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        }
        quantize_static(
            prepared,
            quantised,
            Patches(folder),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Without it, processors that lack 8-bit dot products overflow 16-bit sums.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[name for name in convolutions[1:] if name not in grouped],
        )
        model = onnx.load(quantised)
        original = onnx.load(source)
        model.producer_name = original.producer_name
        model.doc_string = original.doc_string + " 8-bit convolutions."
        # The scores of the original are not those of its copy.
        kept = {entry.key: entry.value for entry in original.metadata_props if entry.key != "hhnet_scores"}
        onnx.helper.set_model_props(model, kept)
        onnx.checker.check_model(model)
        partial = destination.with_name(destination.name + ".partial")
        onnx.save(model, partial)
        partial.replace(destination)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of a held-out set")
    parser.add_argument("--out", type=Path, required=True)
    settings = parser.parse_args()
    if not settings.model.is_file():
        raise SystemExit(f"quantise: there is no model {settings.model}: give the path of an ONNX file")
    try:
        quantise(settings.model, settings.data, settings.out)
    except (OSError, ValueError) as error:
        raise SystemExit(f"quantise: {error}") from None


if __name__ == "__main__":
    main()
