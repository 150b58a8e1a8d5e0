"""The 8-bit copy of a network: what is quantised, what stays, and that it answers as the original does.

    python3 tests/test_quantise.py

Without torch or onnxruntime the tests are reported as skipped, with the reason.
"""

import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

try:
    import numpy as np
    import onnx
    import onnxruntime
    from test_training import made_up_set

    from training import quantise

    MISSING = None
except ImportError as error:
    MISSING = f"{error}: run scripts/train --env once, or install python3-torch, onnx and onnxruntime"

MODEL = ROOT / "models/hhnet_fast.onnx"


@unittest.skipIf(MISSING, MISSING or "")
class Quantise(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = Path(holder.name)
        made_up_set(cls.folder / "val", range(4), 5, patches=48)
        cls.copy = cls.folder / "int8.onnx"
        quantise.quantise(MODEL, cls.folder / "val", cls.copy)

    def test_convolutions_are_quantised_and_the_colour_of_focus_is_not(self):
        graph = onnx.load(str(self.copy)).graph
        makers = {name: node.op_type for node in graph.node for name in node.output}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        quantised = [node for node in convolutions if makers.get(node.input[1]) == "DequantizeLinear"]
        # Sums of pixels and three Laplacians stay as they are; stem, three joins, three stages of two stay not.
        self.assertEqual((len(convolutions), len(quantised)), (14, 10))
        self.assertTrue(all(makers.get(node.input[1]) != "DequantizeLinear" for node in graph.node if node.op_type == "Gemm"))

    def test_metadata_is_kept_and_the_original_s_scores_are_not(self):
        original, copy = ({e.key: e.value for e in onnx.load(str(p)).metadata_props} for p in (MODEL, self.copy))
        original.pop("hhnet_scores", None)
        self.assertEqual(copy, original)
        self.assertIn("hhnet_z_range_um", copy)

    def test_answers_are_those_of_the_original(self):
        patches = np.load(self.folder / "val/patches-0000.npy")
        handcrafted = np.load(self.folder / "val/handcrafted-0000.npy")
        names = ["probabilities", "defocus_um", "log_variance"]
        feed = {"patches": patches, "handcrafted": handcrafted}
        sessions = (onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"]) for p in (MODEL, self.copy))
        (p, z_um, _), (p_8, z_8_um, _) = (session.run(names, feed) for session in sessions)
        np.testing.assert_allclose(p_8.sum(1), 1, atol=1e-4)
        self.assertLess(float(np.abs(p - p_8).sum(1).mean()), 0.3)
        self.assertLess(float(np.median(np.abs(np.arcsinh(z_um / 2) - np.arcsinh(z_8_um / 2)))), 0.15)


if __name__ == "__main__":
    unittest.main(verbosity=2)
