"""A few steps of training on a made-up set: it runs, resumes, exports, and the file agrees with PyTorch.

    python3 tests/test_training.py

Without torch the tests are reported as skipped, with the reason.
"""

import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    MISSING = None
except ImportError as error:
    MISSING = f"{error}: run scripts/train --env once, or install python3-torch, onnx and onnxruntime"

if MISSING is None:
    from training import data, export, model, paper, report, train


def made_up_set(folder: Path, slides: range, seed: int, patches: int = 32) -> None:
    """Patches whose contrast falls with defocus and whose colour tells its sign, in the builder's format."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    z_um = rng.choice([-20.0, -3.0, 0.0, 3.0, 8.0, 20.0, 50.0], patches).astype(np.float32)
    contrast = 60 / (1 + np.abs(z_um))[:, None, None, None]
    tint = np.stack([1 + 0.5 * np.tanh(z_um), np.ones_like(z_um), 1 - 0.5 * np.tanh(z_um)], 1)[:, None, None, :]
    texture = rng.normal(size=(patches, 300, 300, 1))
    images = np.clip(170 + contrast * tint * texture, 0, 255).astype(np.uint8)
    labels = np.stack([z_um, rng.choice(list(slides), patches), np.arange(patches) // 4], 1).astype(np.float32)
    np.save(folder / "patches-0000.npy", images)
    np.save(folder / "handcrafted-0000.npy", rng.normal(3, 2, (patches, 18)).astype(np.float32))
    np.save(folder / "labels-0000.npy", labels)
    edges = {"in_focus_um": 0.715, "near_um": 5.0, "middle_um": 11.4, "far_um": 30.0}
    config = {"z_max_um": 65.0, "objective": {"name": "40x0.65"}}
    shards = [{"number": 0, "patches": patches}]
    manifest = {"complete": True, "class_edges": edges, "object_pixel_um": 0.08625, "config": config, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@unittest.skipIf(MISSING, MISSING or "")
class Training(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)
        made_up_set(self.folder / "data/train", range(4), 1)
        made_up_set(self.folder / "data/val", range(4, 6), 2)
        made_up_set(self.folder / "data/test_made_up", range(6, 8), 3)

    def run_training(self, *more: str) -> dict:
        folder = self.folder
        places = ["--data", f"{folder}/data", "--out", f"{folder}/out", "--export", f"{folder}/model.onnx"]
        return train.fit(train.arguments([*places, "--batch", "8", *more]))

    def test_a_run_exports_what_pytorch_computes(self):
        card = self.run_training("--epochs", "2")
        self.assertLess(card["export_difference"], 1e-4)
        self.assertIn("test_made_up", card["scores"])
        self.assertEqual(len(card["training_set"]), 64)

        session = onnxruntime.InferenceSession(str(self.folder / "model.onnx"), providers=["CPUExecutionProvider"])
        for batch in (1, 5, 30):
            patches = np.random.default_rng(batch).integers(0, 256, (batch, 300, 300, 3), dtype=np.uint8)
            features = np.zeros((batch, 18), np.float32)
            outputs = session.run(list(export.OUTPUTS), {"patches": patches, "handcrafted": features})
            self.assertEqual([output.shape for output in outputs], [(batch, 7), (batch,), (batch,)])
            np.testing.assert_allclose(outputs[0].sum(1), 1.0, atol=1e-5)
            self.assertTrue(all(np.isfinite(output).all() for output in outputs))

        stored = onnx.load(str(self.folder / "model.onnx"))
        metadata = {entry.key: entry.value for entry in stored.metadata_props}
        self.assertEqual(json.loads(metadata["hhnet_class_edges_um"]), [0.715, 5.0, 11.4, 30.0])
        self.assertEqual(metadata["hhnet_training_set"], card["training_set"])
        self.assertLessEqual(stored.opset_import[0].version, 15)

    def test_an_interrupted_run_goes_on(self):
        self.run_training("--epochs", "1")
        self.run_training("--epochs", "2", "--resume")
        history = json.loads((self.folder / "out/history.json").read_text())
        self.assertEqual([row["epoch"] for row in history], [0, 1])

    def test_slides_in_both_sets_are_refused(self):
        made_up_set(self.folder / "leak/train", range(4), 1)
        made_up_set(self.folder / "leak/val", range(4), 2)
        with self.assertRaisesRegex(ValueError, "in train and in val"):
            train.fit(train.arguments(["--data", str(self.folder / "leak"), "--out", str(self.folder / "out")]))

    def test_test_slides_in_train_are_refused(self):
        made_up_set(self.folder / "data/test_leak", range(3, 5), 4)
        with self.assertRaisesRegex(ValueError, "in train and in test_leak|in val and in test_leak"):
            self.run_training("--epochs", "1")

    def test_a_set_that_is_not_whole_is_refused(self):
        folder = self.folder / "data/train"
        whole = json.loads((folder / "manifest.json").read_text())
        readers = (
            data.load,
            lambda path: next(paper.batches(path, data.ClassEdges(), 2, np.random.default_rng(0))),
            data.shards,
        )
        for change, words in (
            ({"complete": False}, "not complete"),
            ({"shards": []}, "lists no shards"),
            ({"shards": [{}]}, "not the manifest"),
        ):
            (folder / "manifest.json").write_text(json.dumps(whole | change))
            for reader in readers:
                with self.assertRaisesRegex(ValueError, words):
                    reader(folder)
        (folder / "manifest.json").write_text(json.dumps(whole | {"shards": [{"number": 0, "patches": 31}]}))
        for reader in readers[:2]:
            with self.assertRaisesRegex(ValueError, "not that of 31 rows"):
                reader(folder)
        # A shard that no manifest lists is not there.
        (folder / "manifest.json").write_text(json.dumps(whole))
        (folder / "patches-0001.npy").write_bytes(b"half")
        self.assertEqual(len(data.load(folder)), 32)
        half = (folder / "patches-0000.npy").read_bytes()[:-1]
        (folder / "patches-0000.npy").write_bytes(half)
        with self.assertRaisesRegex(ValueError, "patches-0000.npy cannot be read"):
            data.load(folder)

    def test_a_foreign_file_is_no_checkpoint(self):
        foreign = self.folder / "foreign.pt"
        for write in (
            lambda: foreign.write_bytes(b"not torch"),
            lambda: torch.save([1, 2], foreign),
            lambda: torch.save({"a": 1}, foreign),
        ):
            write()
            with self.assertRaisesRegex(ValueError, "foreign.pt is no checkpoint of this training"):
                self.run_training("--start-from", str(foreign))

    def test_a_checkpoint_of_another_set_is_refused(self):
        self.run_training("--epochs", "1")
        manifest, patches = (self.folder / "data/train" / name for name in ("manifest.json", "patches-0000.npy"))
        before = manifest.read_bytes()
        manifest.write_text(json.dumps(json.loads(before) | {"version": "another"}))
        with self.assertRaisesRegex(ValueError, "trained on another set"):
            self.run_training("--epochs", "2", "--resume")
        manifest.write_bytes(before)
        pixels = np.load(patches)
        pixels[0, :3, :3] ^= 1
        np.save(patches, pixels)
        with self.assertRaisesRegex(ValueError, "trained on another set"):
            self.run_training("--epochs", "2", "--resume")

    def test_the_weights_of_another_network_are_refused(self):
        other = self.folder / "other.npz"
        for content in (b"", b"PK not weights"):
            other.write_bytes(content)
            with self.assertRaisesRegex(ValueError, "other.npz holds no weights .*: start from"):
                self.run_training("--start-from", str(other))
        np.savez(other, **{"stem.0.weight": np.zeros((3, 3), np.float32)})
        with self.assertRaisesRegex(ValueError, "other.npz holds the weights of another network"):
            self.run_training("--start-from", str(other))

    def test_sets_are_joined_unless_their_optics_differ(self):
        one, two = self.folder / "data/train", self.folder / "more"
        made_up_set(two, range(40, 44), 3)
        both = data.load(one, two)
        self.assertEqual(len(both), len(data.load(one)) + len(data.load(two)))
        self.assertTrue(torch.equal(both.pooled[-len(data.load(two)) :], data.load(two).pooled))
        manifest = json.loads((two / "manifest.json").read_text())
        (two / "manifest.json").write_text(json.dumps(manifest | {"object_pixel_um": 0.5}))
        with self.assertRaisesRegex(ValueError, "another objective or pixel size"):
            data.load(one, two)

    def test_the_file_states_the_range_it_answers_for(self):
        def stated():
            properties = onnx.load(str(self.folder / "model.onnx")).metadata_props
            return json.loads({entry.key: entry.value for entry in properties}["hhnet_z_range_um"])

        self.run_training("--epochs", "1", "--answers-um", "45")
        self.assertEqual(stated(), [-45.0, 45.0])
        for wrong in ("20", "1000"):
            with self.assertRaisesRegex(ValueError, f"--answers-um {wrong}: must lie above"):
                self.run_training("--epochs", "1", "--answers-um", wrong)

    def test_fringes_tell_the_blurrier_colour_whatever_the_contrast(self):
        torch.manual_seed(3)
        sharp = torch.nn.functional.avg_pool2d(torch.randn(4, 1, 54, 54), 5, 1)
        blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1)
        sharp = sharp[:, :, 1:-1, 1:-1]
        laplacian = model.HhnetFast(data.ClassEdges(), (-60.0, 60.0)).laplacian
        for gain in (0.3, 1.0, 3.0):
            # Red is green blurred; green is blue blurred.
            found = model.fringes(torch.cat([gain * blurred, sharp, sharp], 1), laplacian)
            self.assertTrue((found[:, 0] > 0.3).all(), found)
            found = model.fringes(torch.cat([blurred, blurred, gain * sharp], 1), laplacian)
            self.assertTrue((found[:, 1] < -0.3).all(), found)


@unittest.skipIf(MISSING, MISSING or "")
class Paper(unittest.TestCase):
    """The network of the paper against its Table 1."""

    def setUp(self):
        self.network = paper.Hhnet(data.ClassEdges(), (-65.0, 65.0))

    def test_layers_are_those_of_table_1(self):
        layers = [m for m in self.network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
        convolutions = [(m.kernel_size[0], m.in_channels, m.out_channels) for m in layers if isinstance(m, torch.nn.Conv2d)]
        widths = [(5, 3, 64), (5, 64, 64), (3, 64, 128), (3, 128, 128), (3, 128, 256), (3, 256, 256), (3, 256, 256)]
        widths += [(3, 256, 512), (3, 512, 512), (3, 512, 512), (3, 512, 512), (3, 512, 512), (3, 512, 512)]
        self.assertEqual(convolutions, widths)
        linear = [(m.in_features, m.out_features) for m in layers if isinstance(m, torch.nn.Linear)]
        self.assertEqual(linear, [(18 * 18 * 512, 224), (18, 32), (256, 256), (256, 7)])
        # 224 and 32 make one layer of 256: 16 layers with weights.
        self.assertEqual(len(convolutions) + len(linear) - 1, 16)
        self.assertEqual(sum(isinstance(m, torch.nn.MaxPool2d) for m in self.network.modules()), 4)

    def test_parameters_as_counted_by_hand(self):
        convolutions = 4_864 + 102_464 + 73_856 + 147_584 + 295_168 + 2 * 590_080 + 1_180_160 + 5 * 2_359_808
        linear = (165_888 * 224 + 224) + (18 * 32 + 32) + (256 * 256 + 256) + (256 * 7 + 7)
        self.assertEqual(sum(p.numel() for p in self.network.parameters()), convolutions + linear)
        self.assertEqual(convolutions + linear, 52_010_631)

    def test_dropouts_act_after_the_joined_and_the_hidden_layer(self):
        self.assertEqual((self.network.joined_dropout.p, self.network.hidden_dropout.p), (0.7, 0.5))
        seen = []
        for name in ("joined_dropout", "hidden_dropout"):
            getattr(self.network, name).register_forward_hook(lambda m, i, o, name=name: seen.append((name, i[0].shape[1])))
        with torch.no_grad():
            self.network.eval()(torch.zeros(1, 300, 300, 3, dtype=torch.uint8), torch.zeros(1, 18))
        self.assertEqual(seen, [("joined_dropout", 256), ("hidden_dropout", 256)])

    def test_a_few_steps_train_resume_and_keep_the_contract(self):
        with tempfile.TemporaryDirectory() as folder:
            made_up_set(Path(folder) / "data/train", range(4), 1, patches=4)
            made_up_set(Path(folder) / "data/val", range(4, 6), 2, patches=2)
            places = ["--data", f"{folder}/data", "--out", f"{folder}/out", "--batch", "2", "--steps", "1"]
            card = paper.fit(paper.arguments([*places, "--epochs", "1"]))
            self.assertLess(card["export_difference"], 1e-4)
            self.assertEqual(card["parameters"], 52_010_631)
            more = paper.fit(paper.arguments([*places, "--epochs", "2", "--resume"]))
            self.assertEqual([row["epoch"] for row in more["history"]], [0, 1])

    def test_a_foreign_checkpoint_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            made_up_set(Path(folder) / "data/train", range(4), 1, patches=4)
            made_up_set(Path(folder) / "data/val", range(4, 6), 2, patches=2)
            (Path(folder) / "out").mkdir()
            torch.save({"network": {}}, Path(folder) / "out/checkpoint.pt")
            with self.assertRaisesRegex(ValueError, "no checkpoint of this training"):
                paper.fit(paper.arguments(["--data", f"{folder}/data", "--out", f"{folder}/out", "--resume"]))


@unittest.skipIf(MISSING, MISSING or "")
class Parts(unittest.TestCase):
    def test_classes_match_the_rust_rows(self):
        rows = [(0.0, 0), (0.715, 0), (-0.715, 0), (0.73, 1), (5.0, 1), (5.1, 2), (11.6, 3), (29.9, 3), (30.3, 4)]
        rows += [(-0.73, -1), (-5.0, -1), (-5.1, -2), (-60.0, -2), (500.0, 4)]
        for z_um, index in rows:
            self.assertEqual(4 - data.ClassEdges().classify(np.array([z_um]))[0], index, z_um)

    def test_soft_labels_peak_at_the_height_and_class_they_say(self):
        edges = data.ClassEdges()
        network = model.HhnetFast(edges, (-60.0, 60.0))
        z_um = torch.tensor([-40.0, -2.0, 0.0, 2.0, 8.0, 20.0, 50.0])
        target = model.soft_label(network, z_um)
        torch.testing.assert_close(target.sum(1), torch.ones(7))
        self.assertEqual((target @ network.membership).argmax(1).tolist(), edges.classify(z_um.numpy()).tolist())
        mean_um = network.scale_um * torch.sinh((target * network.bin_centres).sum(1))
        torch.testing.assert_close(mean_um, z_um, rtol=0.15, atol=0.02)

    def test_the_fast_network_is_small(self):
        self.assertLessEqual(model.macs(model.HhnetFast(data.ClassEdges(), (-65.0, 65.0))), 0.25e9)

    def test_augmenting_never_changes_how_large_or_how_coloured_blurred_things_are(self):
        """Flips, turns, shifts, light and noise: the spectrum and the side of the fringes stay; nothing is zoomed."""
        random = torch.Generator().manual_seed(1)
        y, x = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")
        # A wave of 10 samples along x, in red twice as strong as in green.
        wave = torch.sin(2 * np.pi * x / 10)
        image = (1200 + 200 * torch.stack([2 * wave, wave, wave])).repeat(16, 1, 1, 1)
        out = data.augment(image.to(torch.int16), random)
        self.assertEqual(out.shape, image.shape)
        shifted = data.augment(image.to(torch.int16), random, 60)
        self.assertEqual(shifted.shape, (16, 3, 60, 60))
        for row in out:
            spectrum = torch.fft.rfft2(row[1] - row[1].mean()).abs()
            spectrum[0, 0] = 0
            down, across = divmod(int(spectrum.argmax()), spectrum.shape[1])
            # Still ten samples, along either axis.
            self.assertIn((down, across), {(0, 10), (10, 0), (90, 0)})
            red, green = (float((channel - channel.mean()).square().mean().sqrt()) for channel in row[:2])
            self.assertAlmostEqual(red / green, 2.0, delta=0.3)
        seeds = (torch.Generator().manual_seed(seed) for seed in range(12))
        axes = {float(data.augment(image[:2].to(torch.int16), seed)[0, 1].std(0).mean() > 50) for seed in seeds}
        self.assertEqual(axes, {0.0, 1.0})

    def test_pooling_adds_up_squares(self):
        patches = np.random.default_rng(0).integers(0, 256, (2, 300, 300, 3), dtype=np.uint8)
        pooled = data.pool(patches)
        self.assertEqual(pooled.shape, (2, 3, 100, 100))
        self.assertEqual(pooled[1, 2, 10, 20], patches[1, 30:33, 60:63, 2].sum())

    def test_empty_glass_is_flat_and_unknown(self):
        random = torch.Generator().manual_seed(0)
        image, known = data.empty_some(torch.rand(64, 3, 20, 20) * 2000, random, 0.5)
        self.assertTrue(0 < known.sum() < 64)
        self.assertLess(float(image[~known].std((2, 3)).max()), 60)
        self.assertGreater(float(image[known].std((2, 3)).min()), 300)
        network = model.HhnetFast(data.ClassEdges(), (-65.0, 65.0))
        torch.testing.assert_close(model.no_idea(network) @ network.membership, torch.full((7,), 1 / 7))

    def test_the_image_estimate_ignores_outliers(self):
        z_um = np.array([1.0] * 20 + [-30.0] * 5)
        self.assertLess(abs(report.robust_mean(z_um, np.full(25, 0.04)) - 1.0), 0.1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
