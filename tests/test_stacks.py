"""Training on a user's own z-stacks, and the blur of red that tells the side of focus.

    python3 tests/test_stacks.py

Without torch the tests are reported as skipped, with the reason.
"""

import contextlib
import io
import itertools
import json
import tempfile
import unittest
from pathlib import Path

from test_training import MISSING, made_up_set

if MISSING is None:
    import numpy as np
    import onnx
    import torch

    from training import colour, data, stacks


def discs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Discs of 20 to 60 pixels in a patch with room around it, 0 and 1."""
    y, x = np.mgrid[-60:360, -60:360]
    shape = np.zeros(x.shape)
    for _ in range(count):
        left, top, radius = rng.uniform(0, 300), rng.uniform(0, 300), rng.uniform(10, 30)
        shape[(x - left) ** 2 + (y - top) ** 2 < radius**2] = 1
    return shape


def seen(shape: np.ndarray, colours: tuple, z_um: float, rng: np.random.Generator) -> np.ndarray:
    """A shape of the second colour on ground of the first, out of focus: red focuses 2 µm beyond the middle, green 2 µm before it."""
    spectrum = np.fft.rfft2(shape)
    frequency = np.hypot(np.fft.fftfreq(shape.shape[0])[:, None], np.fft.rfftfreq(shape.shape[1]))
    channels = []
    for ground, stain, focus_um in zip(*colours, (2.0, -2.0, 2.0)):
        sigma_px = np.hypot(1.0, 0.5 * (z_um - focus_um))
        blurred = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * frequency * sigma_px) ** 2), shape.shape)
        channels.append(ground + (stain - ground) * blurred + rng.normal(0, 1, shape.shape))
    return np.clip(np.stack(channels, 2)[60:360, 60:360], 0, 255).astype(np.uint8)


@unittest.skipIf(MISSING, MISSING or "")
class Stacks(unittest.TestCase):
    """Training on a user's own z-stacks."""

    def stacks(self, folder: Path, fields: int = 3) -> Path:
        """Sets as `hhnet dataset ingest --every-field --keep-blank` writes them: every field in both, each of two colours of its own."""
        colours = [((90, 100, 60), (400, 330, 150)), ((160, 135, 205), (80, 75, 200)), ((200, 210, 220), (120, 60, 130))]
        heights = [-40.0, -25.0, -12.0, -6.0, 0.0, 6.0, 12.0, 25.0, 40.0]
        for seed, name in enumerate(("train", "val")):
            made_up_set(folder / name, range(fields), 5, patches=1)
            rng = np.random.default_rng(seed)
            images, rows = [], []
            for field, (number, z_um) in itertools.product(range(fields), enumerate(heights)):
                # Two patches and an empty one.
                images += [seen(discs(rng, count), colours[field], z_um, rng) for count in (12, 8, 0)]
                rows += [[z_um, field, field * len(heights) + number, blank] for blank in (0, 0, 1)]
            np.save(folder / name / "patches-0000.npy", np.stack(images))
            np.save(folder / name / "labels-0000.npy", np.array(rows))
            np.save(folder / name / "handcrafted-0000.npy", np.zeros((len(rows), 18), np.float32))
            path = folder / name / "manifest.json"
            names = [f"field {number}" for number in range(fields)]
            manifest = json.loads(path.read_text()) | {"recorded": {"fields": names}}
            manifest |= {"label_columns": ["defocus_um", "slide_seed", "frame", "blank"]}
            manifest |= {"shards": [{"number": 0, "patches": len(rows)}]}
            path.write_text(json.dumps(manifest))
        return folder

    def test_blur_of_red_is_a_line_in_the_height_whatever_the_colours(self):
        rng = np.random.default_rng(3)
        blur = colour.RedBlur()
        # Bright clipping, little contrast, opposite contrast, dark clipping that hides a third of every edge.
        rows = [
            (((90, 100, 60), (400, 330, 150)), 0.2),
            (((160, 135, 205), (80, 75, 200)), 0.2),
            (((90, 180, 0), (180, 90, 0)), 0.2),
            (((160, 120, 0), (60, -60, 0)), 0.5),
        ]
        for colours, tolerance in rows:
            heights = [-20.0, -10.0, 0.0, 10.0, 20.0]
            shapes = [discs(rng, 10) for _ in range(4)]
            for z_um in heights:
                patches = np.stack([seen(shape, colours, z_um, rng) for shape in shapes])
                found = blur(blur.sums(torch.from_numpy(data.pool(patches)).float()).sum(0))
                # Variances of the blur in pixels: 0.25 (z ± 2)²; half their difference, 2 z · 0.25 · 2 µm, in squares of 3x3.
                expected = -z_um / 9
                np.testing.assert_allclose(
                    found.numpy(), expected, atol=0.2 + tolerance * abs(expected), err_msg=f"{colours} {z_um}"
                )
        # Nothing to see, nothing said; black, white, and no colour at all.
        for level in (0, 255, 128):
            flat = torch.full((2, 3, 100, 100), 9.0 * level)
            self.assertEqual(blur(blur.sums(flat).sum(0)).tolist(), [0.0, 0.0])
        grey = torch.from_numpy(data.pool(np.stack([seen(discs(rng, 10), ((90,) * 3, (200,) * 3), 0.0, rng)] * 2))).float()
        grey[:] = grey[:, 1:2]
        self.assertLess(float(blur(blur.sums(grey).sum(0)).abs().max()), 1e-3)

    def test_every_field_is_scored_by_a_network_that_never_saw_it(self):
        with tempfile.TemporaryDirectory() as holder:
            folder = self.stacks(Path(holder) / "data")
            learnt = []
            learn = stacks.learn
            self.addCleanup(setattr, stacks, "learn", learn)

            def spy(seen, *settings):
                learnt.append(frozenset(seen.field.tolist()))
                return learn(seen, *settings)

            stacks.learn = spy
            card = stacks.fit(stacks.arguments(["--data", str(folder), "--out", f"{holder}/out"]))
            # For each field: the network that scores it, then two to fit how sure it may be, which saw neither it nor the field they judge.
            everything = frozenset(range(3))
            for field in range(3):
                without = learnt[3 * field : 3 * field + 3]
                self.assertEqual(without[0], everything - {field})
                self.assertEqual({left for left in without[1:]}, {frozenset({other}) for other in everything - {field}})
            self.assertIn(everything, learnt[9:])
            self.assertEqual(card["pooled"]["images"], sum(figures["images"] for figures in card["fields"].values()))
            # One field is clipped, one has little contrast, and none has the colours of another.
            pooled = card["pooled"]
            self.assertEqual(pooled["images"], 27)
            self.assertGreaterEqual(pooled["sign_right"]["side"], 0.95 * pooled["images_beyond_5um"])
            self.assertTrue(all(row["patches"] == 2 for row in card["image_list"]), "empty patches have no vote")
            text = (Path(holder) / "out/card.md").read_text()
            self.assertIn("| field 1 | 9 | 18 of 27 | yes |", text)
            self.assertTrue((Path(holder) / "out/card.png").stat().st_size > 1000)
            model = onnx.load(f"{holder}/out/hhnet_stack.onnx")
            self.assertEqual([entry.name for entry in model.graph.input], ["patches", "handcrafted"])
            self.assertIn(("hhnet_whole_frames", "true"), [(entry.key, entry.value) for entry in model.metadata_props])

    def blank(self, folder: Path, *fields: int) -> None:
        """Empties all patches of some fields of the held-out set."""
        labels = np.load(folder / "val/labels-0000.npy")
        labels[np.isin(labels[:, 1], fields), 3] = 1
        np.save(folder / "val/labels-0000.npy", labels)

    def test_a_field_without_a_specimen_is_left_out_while_two_are_left(self):
        with tempfile.TemporaryDirectory() as holder:
            folder = self.stacks(Path(holder) / "data")
            self.blank(folder, 1)
            settings = ["--data", str(folder), "--out", f"{holder}/out", "--epochs", "1"]
            with contextlib.redirect_stdout(io.StringIO()) as said:
                card = stacks.fit(stacks.arguments(settings))
            self.assertIn("left out: field 1; all patches are blank", said.getvalue())
            self.assertEqual(list(card["fields"]), ["field 0", "field 2"])
            with self.assertRaisesRegex(ValueError, "field 'field 1' cannot be held out: all its patches are blank"):
                stacks.fit(stacks.arguments([*settings, "--hold-out", "field 1"]))
            self.blank(folder, 0)
            with self.assertRaisesRegex(ValueError, "all patches of field 0, field 1 are blank, and 1 of the two fields"):
                stacks.fit(stacks.arguments(settings))

    def test_signs_that_guessing_explains_are_not_trusted(self):
        for right, count, told in [
            (4, 9, False),
            (9, 9, True),
            (7, 9, False),
            (8, 9, True),
            (0, 0, False),
            (4, 4, False),
            (5, 5, True),
        ]:
            self.assertEqual(stacks.is_told(right, count), told, (right, count))
        edges = data.ClassEdges()

        def rows(right: int) -> list[dict]:
            z_um = [10.0 * (-1) ** number for number in range(9)]
            found = [um if number < right else -um for number, um in enumerate(z_um)]
            return [
                {"z_um": um, "defocus_um": guess, "side_log_odds": um, "index": int(np.sign(guess)), "field": 0}
                for um, guess in zip(z_um, found)
            ]

        content = {"patches": 90, "patches_with_content": 30}
        good, bad = (stacks.summarise(rows(right), edges) | content for right in (9, 4))
        self.assertTrue(good["trusted"])
        self.assertFalse(bad["trusted"])
        said = stacks.remarks({"fields": {"left": bad}, "pooled": good})
        self.assertIn("**left is not to be trusted**: 4 of 9", said[0])
        self.assertIn("left has low contrast: 30 of its 90 patches", said[1])
        self.assertEqual(len(said), 2)

    def test_an_unknown_field_is_named(self):
        with tempfile.TemporaryDirectory() as holder:
            folder = self.stacks(Path(holder) / "data", fields=2)
            with self.assertRaisesRegex(ValueError, "no field 'middle' to hold out; there are field 0, field 1"):
                stacks.fit(stacks.arguments(["--data", str(folder), "--out", f"{holder}/out", "--hold-out", "middle"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
