"""How much blurrier red is than green in a frame: the side of focus, whatever the colours of the specimen.

Green focuses at another height than red (an achromat brings red and blue together). A flat specimen that green shows blurred by a
width w_g, red by w_r, obeys to second order R = a + b G + b c ∇²G with c = (w_r² - w_g²) / 2: a and b are the specimen's colours, c is
the optics'. Widths grow with the distance from each colour's own focus, so to that order c is a straight line in z that passes zero half way
between the two; far from focus it bends. No reference and no threshold has to be learnt to tell the side, only the direction of the line.

What would spoil the regression, and what is done about it:

* Where either colour is clipped, bright or dark, R is no longer a line in G. Such places and their neighbours are left out.
* Noise in G is in its Laplacian too and reads as blur. Every square of the grid is split into two halves with noise of their
  own, and what multiplies a half comes from the other (instrumental variables).
* One patch may hold one edge, whose colours a and b are then anybody's guess. The sums of all patches of a frame are added up first.
* Where next to nothing is left of the detail, c is drawn to 0: nobody knows.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .data import POOL
from .model import LAPLACIAN

#: Sides of the squares that are looked at, in squares of 3x3 pixels: 6 and 12 pixels.
GRIDS = (2, 4)
#: A colour whose mean over 3x3 pixels is not between these is clipped, of 255.
UNCLIPPED = (5, 250)
#: What a binomial filter of 5 taps, run twice, and the Laplacian take off each side of the grid.
MARGIN = 5
#: Mean square of the Laplacian below which c is drawn to 0, grey levels squared.
DETAIL = 0.002
#: Slope b of red on green below which c is drawn to 0: there red does not show what green shows.
SLOPE = 0.2
#: Sums kept of a patch for each grid and each of its two halves, see `RedBlur.sums`.
SUMS = 12


class RedBlur(nn.Module):
    """c of a frame on two grids, in squares of 3x3 pixels; double precision within, because it is a small difference."""

    def __init__(self):
        super().__init__()
        binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("binomial", torch.outer(binomial, binomial).expand(2, 1, 5, 5).contiguous())
        self.register_buffer("laplacian", torch.tensor(LAPLACIAN).view(1, 1, 3, 3))
        for side in GRIDS:
            first = (torch.arange(side)[:, None] + torch.arange(side)[None] + 1) % 2
            halves = torch.stack([first, 1 - first]) / (side * side / 2)
            # Red of both halves, then green of both.
            self.register_buffer(f"halves{side}", halves[:, None].repeat(2, 1, 1, 1))

    def sums(self, pooled: torch.Tensor) -> torch.Tensor:
        """What is added up over a frame, float64 [n, grids, 2, 12], from 3x3 sums [n, 3, 100, 100].

        For each half, with g, r and l the green, the red and the Laplacian of the green of that half, G and L those of the other, over
        the squares that are not clipped: how many, ΣG, ΣL, Σg, Σl, Σr, ΣGg, ΣGl, ΣLg, ΣLl, ΣGr, ΣLr.
        """
        red_green = pooled[:, :2]
        dark, bright = (level * POOL * POOL for level in UNCLIPPED)
        clipped = ((red_green <= dark) | (red_green >= bright)).to(pooled.dtype).amax(1, keepdim=True)
        levels = red_green * (1 / (POOL * POOL)) - 128.0
        return torch.stack([self._on_grid(levels, clipped, side) for side in GRIDS], 1)

    def _on_grid(self, levels: torch.Tensor, clipped: torch.Tensor, side: int) -> torch.Tensor:
        spread = F.max_pool2d(F.max_pool2d(clipped, side), 3, 1, 1)
        whole = (1 - spread[:, 0, MARGIN:-MARGIN, MARGIN:-MARGIN]).double()
        split = F.conv2d(levels, getattr(self, f"halves{side}"), stride=side, groups=2)
        found = []
        for channels in (split[:, 0::2], split[:, 1::2]):
            smooth = F.conv2d(F.conv2d(channels, self.binomial, groups=2), self.binomial, groups=2)
            bent = F.conv2d(smooth[:, 1:], self.laplacian)
            red, green = smooth[:, 0, 1:-1, 1:-1].double(), smooth[:, 1, 1:-1, 1:-1].double()
            found.append((red, green, bent[:, 0].double()))
        one, other = found
        return torch.stack([self._products(one, other, whole), self._products(other, one, whole)], 1)

    def _products(self, half, other, whole: torch.Tensor) -> torch.Tensor:
        r, g, l = half  # noqa: E741
        _, G, L = other  # noqa: N806
        products = (torch.ones_like(g), G, L, g, l, r, G * g, G * l, L * g, L * l, G * r, L * r)
        return torch.stack([(product * whole).sum((1, 2)) for product in products], 1)

    def forward(self, sums: torch.Tensor) -> torch.Tensor:
        """c of frames [..., grids], in squares of 3x3 pixels, positive where red is the blurrier, from their sums [..., grids, 2, 12]."""
        mean = sums / sums[..., :1].clamp_min(1.0)

        def covariance(product: int, one: int, other: int) -> torch.Tensor:
            return mean[..., product] - mean[..., one] * mean[..., other]

        gg, gl, lg, ll = covariance(6, 1, 3), covariance(7, 1, 4), covariance(8, 2, 3), covariance(9, 2, 4)
        gr, lr = covariance(10, 1, 5), covariance(11, 2, 5)
        # Cramer's rule for r = b g + b c l, both halves together.
        determinant = (gg * ll - gl * lg).sum(-1)
        slope = (gr * ll - gl * lr).sum(-1)
        bent = (gg * lr - lg * gr).sum(-1)
        ratio = bent * slope / (slope * slope + (SLOPE * determinant) ** 2 + 1e-9)
        detail = torch.relu(determinant / gg.sum(-1).clamp_min(0.1))
        area = torch.tensor([side * side for side in GRIDS], dtype=sums.dtype, device=sums.device)
        return (ratio * detail / (detail + DETAIL) * area).to(self.binomial.dtype)
