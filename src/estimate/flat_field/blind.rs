//! Pixels of a camera that see nothing, and what is put in their place.
//!
//! A hole is filled with what surrounds it, so that its edge is no edge of a specimen: the mean colours of the blocks that see are spread
//! over those that do not, the nearest first (pull and push, Gortler et al., The Lumigraph, SIGGRAPH 1996), and mixed linearly between
//! the middles of blocks.

/// Side of a block, pixels.
const BLOCK: usize = 8;

/// The blind pixels of frames of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blind {
    /// Row, first column and the column behind the last of each run, row by row.
    runs: Vec<[u32; 3]>,
    /// Columns and rows of blocks.
    blocks: [usize; 2],
    /// Column and row of the blocks that hold a blind pixel or lie beside one that does.
    around: Vec<[usize; 2]>,
}

impl Blind {
    /// Where the light, interleaved RGB, is 0.
    pub(super) fn of(light: &[u16], width: usize) -> Self {
        let height = light.len() / (3 * width);
        let blocks = [width, height].map(|side| side.div_ceil(BLOCK));
        let mut runs: Vec<[u32; 3]> = Vec::new();
        let mut holes = vec![false; blocks[0] * blocks[1]];
        for (y, row) in light.chunks_exact(3 * width).enumerate() {
            for (x, _) in row.chunks_exact(3).enumerate().filter(|(_, pixel)| pixel[0] == 0) {
                holes[y / BLOCK * blocks[0] + x / BLOCK] = true;
                let (y, x) = (y as u32, x as u32);
                match runs.last_mut() {
                    Some(run) if run[0] == y && run[2] == x => run[2] = x + 1,
                    _ => runs.push([y, x, x + 1]),
                }
            }
        }
        let beside = |at: usize, end: usize| at.saturating_sub(1)..(at + 2).min(end);
        let is_around = |column: usize, row: usize| {
            beside(row, blocks[1])
                .any(|row| beside(column, blocks[0]).any(|column| holes[row * blocks[0] + column]))
        };
        let every = (0..blocks[1]).flat_map(|row| (0..blocks[0]).map(move |column| [column, row]));
        let around = every.filter(|&[column, row]| is_around(column, row)).collect();
        Self { runs, blocks, around }
    }

    /// How many there are.
    pub(super) fn pixels(&self) -> usize {
        self.runs.iter().map(|[_, from, to]| (to - from) as usize).sum()
    }

    /// Fills the blind pixels of a frame, which are black in it.
    pub(super) fn fill(&self, rgb: &mut [u8], width: usize) {
        if self.runs.is_empty() {
            return;
        }
        let colours = self.colours(rgb, width);
        let mut line = vec![[0.0; 3]; self.blocks[0]];
        let mut filled = u32::MAX;
        for &[y, from, to] in &self.runs {
            if std::mem::replace(&mut filled, y) != y {
                colours.line(y as usize, &mut line);
            }
            let row = &mut rgb[3 * width * y as usize..][..3 * width];
            for x in from as usize..to as usize {
                let (left, right, part) = between(x, line.len());
                for channel in 0..3 {
                    let value = line[left][channel] + part * (line[right][channel] - line[left][channel]);
                    row[3 * x + channel] = (value + 0.5) as u8;
                }
            }
        }
    }

    /// A colour for every block.
    fn colours(&self, rgb: &[u8], width: usize) -> Blocks {
        let mut finest = Blocks::empty(self.blocks);
        for &[column, row] in &self.around {
            let cell = &mut finest.cells[row * self.blocks[0] + column];
            let lines = rgb.chunks_exact(3 * width).skip(row * BLOCK).take(BLOCK);
            for line in lines {
                let pixels = line[3 * column * BLOCK..].chunks_exact(3).take(BLOCK);
                for pixel in pixels.filter(|pixel| **pixel != [0; 3]) {
                    cell.weight += 1.0;
                    for (sum, &value) in cell.sum.iter_mut().zip(pixel) {
                        *sum += f32::from(value);
                    }
                }
            }
        }
        finest.completed()
    }
}

/// Which two blocks a pixel lies between along one side, and how far it is from the first to the second, 0 to 1.
fn between(pixel: usize, blocks: usize) -> (usize, usize, f32) {
    let at = ((pixel as f32 + 0.5) / BLOCK as f32 - 0.5).clamp(0.0, (blocks - 1) as f32);
    let first = at as usize;
    (first, (first + 1).min(blocks - 1), at - first as f32)
}

/// A colour and how many pixels saw it.
#[derive(Clone, Copy, Default)]
struct Cell {
    sum: [f32; 3],
    weight: f32,
}

impl Cell {
    fn mean(&self) -> [f32; 3] {
        self.sum.map(|sum| sum / self.weight.max(f32::MIN_POSITIVE))
    }
}

/// Colours side by side.
struct Blocks {
    columns: usize,
    rows: usize,
    cells: Vec<Cell>,
}

impl Blocks {
    fn empty([columns, rows]: [usize; 2]) -> Self {
        Self {
            columns,
            rows,
            cells: vec![Cell::default(); columns * rows],
        }
    }

    /// With a colour in every cell, if there is one at all.
    fn completed(mut self) -> Self {
        if self.columns * self.rows == 1 || self.cells.iter().all(|cell| cell.weight > 0.0) {
            return self;
        }
        let coarse = self.halved().completed();
        for row in 0..self.rows {
            for column in 0..self.columns {
                let cell = &mut self.cells[row * self.columns + column];
                if cell.weight == 0.0 {
                    *cell = coarse.mixed(column, row);
                }
            }
        }
        self
    }

    /// Four cells made one.
    fn halved(&self) -> Self {
        let mut coarse = Self::empty([self.columns, self.rows].map(|side| side.div_ceil(2)));
        for (at, cell) in self.cells.iter().enumerate() {
            let (column, row) = (at % self.columns, at / self.columns);
            let to = &mut coarse.cells[row / 2 * coarse.columns + column / 2];
            to.weight += cell.weight;
            for (sum, part) in to.sum.iter_mut().zip(cell.sum) {
                *sum += part;
            }
        }
        coarse
    }

    /// The colour at a cell of the next finer blocks: three parts of the cell it lies in to one of its neighbour, along each side.
    fn mixed(&self, column: usize, row: usize) -> Cell {
        let pair = |at: usize, end: usize| {
            let near = at / 2;
            let other = if at.is_multiple_of(2) {
                near.saturating_sub(1)
            } else {
                near + 1
            };
            [(near, 0.75), (other.min(end - 1), 0.25)]
        };
        let mut sum = [0.0; 3];
        for (row, down) in pair(row, self.rows) {
            for (column, across) in pair(column, self.columns) {
                let mean = self.cells[row * self.columns + column].mean();
                (0..3).for_each(|channel| sum[channel] += down * across * mean[channel]);
            }
        }
        Cell { sum, weight: 1.0 }
    }

    /// The colours along a row of pixels, one for the middle of each block.
    fn line(&self, y: usize, line: &mut [[f32; 3]]) {
        let (above, below, part) = between(y, self.rows);
        let row = |row: usize| &self.cells[row * self.columns..][..self.columns];
        for ((to, above), below) in line.iter_mut().zip(row(above)).zip(row(below)) {
            let (above, below) = (above.mean(), below.mean());
            *to = std::array::from_fn(|channel| above[channel] + part * (below[channel] - above[channel]));
        }
    }
}
