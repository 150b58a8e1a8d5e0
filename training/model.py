"""`hhnet_fast`: a small network for CPUs that judges one patch: distance class, signed defocus, certainty.

Built around the physics of the image:

* At 40x/0.65 the finest detail the optics pass is 1.94 cycles/µm and a pixel is 0.086 µm, so sums of 3x3 pixels
  (Nyquist: 1.93 cycles/µm) keep what there is to see and a third of the noise.
* Absorption multiplies, so the image is taken as optical density, less the patch's mean: exposure and lamp drop out.
* Far from focus only faint, wide rings are left, and their colours carry the sign. The density is therefore also pooled to
  three coarser grids, each divided by its own contrast; the contrasts themselves go to the head as numbers.
* Blur is told by energies: every stage gives its mean and its standard deviation over the patch to the head.
* The sign is told by colour: on one side of focus red is the blurrier colour, on the other side blue is. `fringes` says which,
  whatever the specimen, so that even a few images of another instrument are enough to learn its sign.

The head is a histogram over defocus. Class probabilities are sums of its bins (bin edges include all class edges), the
defocus in µm and its variance are its moments, so the three outputs cannot contradict one another. The histogram
lives in u = asinh(z / s), s = 2 µm at 40x/0.65: uniform near focus, logarithmic far away. For other objectives s grows with
the class edges, so that the histogram looks the same in depths of field.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .data import CLASSES, HANDCRAFTED, PATCH_PX, POOL, POOLED_MAX, POOLED_PX, ClassEdges

#: Scale s of u = asinh(z / s), in half-widths of the in-focus class.
SCALE_IN_FOCUS = 2.79
#: Standard deviation, in u, of the histogram a labelled height is turned into.
LABEL_SIGMA = 0.06
#: Bins of each class, from closest (index -2) to farthest (index 4): about 0.08 wide in u up to twice the range that is answered for.
#: Not much wider than a label is blurred: a bin that is filled alone says no more than its centre.
BINS = (40, 16, 10, 16, 10, 12, 18)
#: Contrasts (in optical density) below this are noise and are not magnified.
CONTRAST_FLOOR = 0.004


def scale_um(edges: ClassEdges) -> float:
    """The scale s of u = asinh(z / s), µm."""
    return SCALE_IN_FOCUS * edges.in_focus_um


def bin_edges(edges: ClassEdges, z_range_um: tuple[float, float], bins: tuple[int, ...] = BINS) -> torch.Tensor:
    """Edges of the histogram in u, ascending, uniform within each class; the outermost classes end at the trained range."""
    scale = scale_um(edges)
    low, *inner, high = (math.asinh(z / scale) for z in (z_range_um[0], *edges.ascending, z_range_um[1]))
    knots = [min(low, inner[0] - 0.3), *inner, max(high, inner[-1] + 0.3)]
    parts = [torch.linspace(a, b, n + 1)[:-1] for a, b, n in zip(knots, knots[1:], bins)]
    return torch.cat([*parts, torch.tensor(knots[-1:])])


def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """x + conv(x) at one resolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = conv(width, width, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


def energies(x: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of each channel over the patch, [n, 2 channels]."""
    x = x.float()  # squares of half-precision numbers overflow; elsewhere this changes nothing
    mean = x.mean((2, 3))
    variance = (x * x).mean((2, 3)) - mean * mean
    return torch.cat([mean, torch.sqrt(torch.relu(variance) + 1e-4)], 1)


def normalise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide by the contrast all channels have together; also the log contrast per channel, [n, 3]."""
    mean = x.mean((2, 3))
    variance = (x * x).mean((2, 3)) - mean * mean
    variance = torch.relu(variance) + CONTRAST_FLOOR**2
    together = torch.sqrt(variance.mean(1))
    return x / together.view(-1, 1, 1, 1), 0.5 * torch.log(variance)


#: Nine-point Laplacian, which is nearly isotropic.
LAPLACIAN = ((1 / 6, 2 / 3, 1 / 6), (2 / 3, -10 / 3, 2 / 3), (1 / 6, 2 / 3, 1 / 6))


def partial_correlation(y: torch.Tensor, of: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Correlation of `y` and `of` after what `given` explains of both, each [n, pairs, h, w]; [n, pairs], -1 to 1."""
    y, of, given = (x - x.mean((2, 3), keepdim=True) for x in (y, of, given))

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).mean((2, 3))

    floor = CONTRAST_FLOOR**2
    weight = product(given, given) + floor
    y_given, of_given = product(y, given), product(of, given)
    together = product(y, of) - y_given * of_given / weight
    y_left = torch.relu(product(y, y) - y_given * y_given / weight) + 0.01 * floor
    of_left = torch.relu(product(of, of) - of_given * of_given / weight) + 0.01 * floor
    return together / torch.sqrt(y_left * of_left)


def fringes(density: torch.Tensor, laplacian: torch.Tensor) -> torch.Tensor:
    """How much blurrier red and blue are than green, [n, 2], -2 to 2, from densities [n, 3, h, w].

    Blurring adds a multiple of the Laplacian. If red is green blurred, red less what green explains of it goes with the
    Laplacian of green; if green is red blurred, the other way round. The difference of the two partial correlations does
    not depend on how strongly the specimen absorbs either colour.
    """
    with torch.autocast(density.device.type, enabled=False):  # small differences, which half precision rounds away
        bent = F.conv2d(density, laplacian, groups=3)
    inner = density[:, :, 1:-1, 1:-1]
    other, green = inner[:, 0::2], inner[:, 1:2].expand(-1, 2, -1, -1)
    other_bent, green_bent = bent[:, 0::2], bent[:, 1:2].expand(-1, 2, -1, -1)
    return partial_correlation(other, green_bent, green) - partial_correlation(green, other_bent, other)


#: Levels, contrasts at four scales and colour fringes at three.
NUMBERS = 5 * 3 + 3 * 2


def look(pooled: torch.Tensor, laplacian: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
    """Optical density at four scales, each divided by its contrast (the finest, then the coarser three), and the numbers [n, 21]."""
    density = torch.log(pooled * (1 / POOLED_MAX) + 0.004).neg()
    level = density.mean((2, 3), keepdim=True)
    density = density - level
    fine, fine_contrast = normalise(density)  # 100x100
    grids = [
        F.avg_pool2d(density, 2),  # 50x50
        F.avg_pool2d(density, 7, 4, 2, count_include_pad=False),  # 25x25
        F.avg_pool2d(density, 12, 8, 4, count_include_pad=False),  # 13x13
    ]
    coarser, contrasts = zip(*map(normalise, grids))
    colours = [fringes(grid, laplacian) for grid in grids]
    return fine, coarser, torch.cat([level.flatten(1), fine_contrast, *contrasts, *colours], 1)


class Histogram(nn.Module):
    """What every network with a histogram over defocus has: its bins, its classes, how sure it may be, the scale of the frame features."""

    #: Whether it judges a patch by all the patches that it is given, which must then be those of one frame.
    whole_frames = False

    def __init__(self, edges: ClassEdges, z_range_um: tuple[float, float], bins_of_classes: tuple[int, ...] = BINS):
        super().__init__()
        self.config = {"z_range_um": [float(z) for z in z_range_um]}
        self.scale_um = scale_um(edges)
        knots = bin_edges(edges, z_range_um, bins_of_classes)
        self.register_buffer("bin_edges", knots)
        self.register_buffer("bin_centres", (knots[1:] + knots[:-1]) / 2)
        membership = torch.zeros(sum(bins_of_classes), CLASSES)
        start = 0
        for place, bins in enumerate(bins_of_classes):
            membership[start : start + bins, CLASSES - 1 - place] = 1
            start += bins
        self.register_buffer("membership", membership)
        self.register_buffer("handcrafted_mean", torch.zeros(HANDCRAFTED))
        self.register_buffer("handcrafted_scale", torch.ones(HANDCRAFTED))
        #: How sure it may be is fitted to held-out slides after training: logits are divided by it.
        self.register_buffer("temperature", torch.ones(()))
        #: Likewise the factor that makes half of the held-out heights lie within 0.67 standard deviations.
        self.register_buffer("variance_scale", torch.ones(()))

    def to_u(self, z_um: torch.Tensor) -> torch.Tensor:
        """Defocus in µm to the histogram's axis."""
        return torch.asinh(z_um / self.scale_um)

    def standardise(self, handcrafted: torch.Tensor) -> torch.Tensor:
        """Raw frame features to training-set units, at most 4 standard deviations from the mean."""
        return ((handcrafted - self.handcrafted_mean) / self.handcrafted_scale).clamp(-4.0, 4.0)

    def moments(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Bin probabilities, and the mean and variance of u (a bin is as wide as it is; the label's own blur is taken off)."""
        probability = torch.softmax(logits / self.temperature, 1)
        mean = (probability * self.bin_centres).sum(1)
        offset = self.bin_centres - mean[:, None]
        spread = (probability * offset * offset).sum(1)
        variance = torch.relu(spread - LABEL_SIGMA**2) + (LABEL_SIGMA / 3) ** 2
        return probability, mean, variance * self.variance_scale


class HhnetFast(Histogram):
    """The network on pooled patches; `Deployed` adds the public inputs and outputs."""

    def __init__(self, edges: ClassEdges, z_range_um: tuple[float, float], widths=(16, 32, 64, 96)):
        super().__init__(edges, z_range_um)
        stem, first, second, third = widths
        self.config["widths"] = list(widths)
        self.stem = conv(3, stem, 5, 2)
        self.stage1 = nn.Sequential(conv(stem, first, 3, 2), Residual(first))
        self.stage2 = nn.Sequential(conv(first, second, 3, 2), Residual(second))
        self.stage3 = nn.Sequential(conv(second, third, 3, 2), Residual(third))
        # The coarser grids join by addition: widths stay multiples of 8, which the blocked CPU kernels need.
        self.join_coarse = conv(3, stem, 3, 1)
        self.join_wide = conv(3, first, 3, 1)
        self.join_widest = conv(3, second, 3, 1)
        self.register_buffer("laplacian", torch.tensor(LAPLACIAN).expand(3, 1, 3, 3).contiguous())
        scalars = NUMBERS
        self.scalars = nn.BatchNorm1d(scalars, affine=False)
        self.handcrafted = nn.Sequential(nn.Linear(HANDCRAFTED, 32), nn.ReLU(inplace=True))
        pooled = 2 * (stem + first + second + third)
        self.pooled = nn.BatchNorm1d(pooled)
        inputs = pooled + scalars + 32
        self.head = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(inputs, 160),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(160, sum(BINS)),
        )

    def forward(self, pooled: torch.Tensor, standardised: torch.Tensor) -> torch.Tensor:
        """Logits of the histogram [n, bins] from 3x3 sums [n, 3, 100, 100] and standardised frame features."""
        fine, (coarse, wide, widest), numbers = look(pooled, self.laplacian)
        numbers = self.scalars(numbers)

        stem = self.stem(fine)
        first = self.stage1(stem + self.join_coarse(coarse))
        second = self.stage2(first + self.join_wide(wide))
        third = self.stage3(second + self.join_widest(widest))
        pools = self.pooled(torch.cat([energies(x) for x in (stem, first, second, third)], 1))
        return self.head(torch.cat([pools, numbers, self.handcrafted(standardised)], 1))


def soft_label(model: Histogram, z_um: torch.Tensor) -> torch.Tensor:
    """The histogram that says "this height, give or take `LABEL_SIGMA`", [n, bins]; tails go to the outermost bins."""
    below = torch.special.ndtr((model.bin_edges[1:-1] - model.to_u(z_um)[:, None]) / LABEL_SIGMA)
    zero = torch.zeros_like(below[:, :1])
    return torch.diff(torch.cat([zero, below, zero + 1], 1), dim=1)


def no_idea(model: Histogram) -> torch.Tensor:
    """The histogram that gives every class the same probability, [bins]."""
    return (model.membership / model.membership.sum(0)).sum(1) / CLASSES


def loss(model: Histogram, logits: torch.Tensor, z_um: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of histogram and classes, plus a little Gaussian likelihood of the moments.

    Rows that are not `known` show empty glass, and the right answer is that nobody can tell.
    """
    target = torch.where(known[:, None], soft_label(model, z_um), no_idea(model))
    probability, mean, variance = model.moments(logits)
    bins = -(target * F.log_softmax(logits, 1)).sum(1)
    classes = -((target @ model.membership) * torch.log(probability @ model.membership + 1e-6)).sum(1)
    variance = variance + 0.05**2
    gaussian = 0.5 * ((model.to_u(z_um) - mean) ** 2 / variance + torch.log(variance)) * known
    return (bins + 0.5 * classes + 0.2 * gaussian).mean()


class Deployed(nn.Module):
    """The contract every model of the package keeps: uint8 patches and raw features in, probabilities, µm and log µm² out.

    `defocus_um` is s sinh(E u); `log_variance` is the variance of u carried to µm² by its slope there.
    """

    def __init__(self, network: Histogram):
        super().__init__()
        self.network = network
        # 3x3 sums and the change from interleaved to planar colour in one convolution over rows of interleaved pixels.
        kernel = torch.zeros(3, 1, POOL, 3 * POOL)
        for channel in range(3):
            kernel[channel, 0, :, channel::3] = 1
        self.register_buffer("pool", kernel)

    def forward(self, patches: torch.Tensor, handcrafted: torch.Tensor):
        rows = patches.reshape(-1, 1, PATCH_PX, 3 * PATCH_PX).float()
        pooled = F.conv2d(rows, self.pool, stride=(POOL, 3 * POOL))
        logits = self.network(pooled, self.network.standardise(handcrafted))
        probability, mean, variance = self.network.moments(logits)
        grown, shrunk = torch.exp(mean), torch.exp(-mean)
        defocus_um = (0.5 * self.network.scale_um) * (grown - shrunk)
        slope_um = (0.5 * self.network.scale_um) * (grown + shrunk)
        return probability @ self.network.membership, defocus_um, torch.log(variance * slope_um * slope_um)


def macs(network: Histogram) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one patch, the 3x3 sums included."""
    total = POOLED_PX * POOLED_PX * 3 * POOL * POOL * 3
    counted = []

    def count(layer, _inputs, output):
        if isinstance(layer, nn.Conv2d):
            counted.append(layer.weight.numel() * output.shape[2] * output.shape[3])
        else:
            counted.append(layer.weight.numel())

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    training = network.training
    network.eval()
    with torch.no_grad():
        where = network.bin_edges.device
        network(torch.full((1, 3, POOLED_PX, POOLED_PX), 500.0, device=where), torch.zeros(1, HANDCRAFTED, device=where))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return total + sum(counted)
