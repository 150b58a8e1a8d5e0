//! Small pictures for people: a frame reduced to a quarter, and the same with what the classifier said of each patch.

use image::{Rgb, RgbImage};

use crate::classes::DistanceIndex;
use crate::estimate::patches::PATCH;
use crate::estimate::vote::{self, Probabilities};
use crate::frame::Frame;

/// Every how many pixels of a frame make one of a picture, along each side.
pub const REDUCTION: usize = 4;

/// Pixels of a dot of a digit.
const DOT: u32 = 3;
/// Width of a patch's border, pixels of the picture.
const BORDER: u32 = 2;
/// Height of the bar that shows certainty, pixels of the picture.
const BAR: u32 = 5;

/// A picture of a frame, to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture(pub RgbImage);

impl Picture {
    /// The frame with [`REDUCTION`] pixels averaged to one along each side; what is left over at the right and at the bottom
    /// is cut off. A frame smaller than that is an empty picture.
    pub fn of(frame: &Frame) -> Self {
        let (width, height) = (frame.width() / REDUCTION, frame.height() / REDUCTION);
        let mut picture = RgbImage::new(width as u32, height as u32);
        let mut sums = vec![0_u16; 3 * width];
        let lines = picture.chunks_exact_mut(sums.len().max(1));
        for (line, rows) in lines.zip(frame.rgb().chunks_exact(3 * frame.width() * REDUCTION)) {
            sums.fill(0);
            for row in rows.chunks_exact(3 * frame.width()) {
                for (sum, pixels) in sums.chunks_exact_mut(3).zip(row.chunks_exact(3 * REDUCTION)) {
                    for pixel in pixels.chunks_exact(3) {
                        for (sum, &value) in sum.iter_mut().zip(pixel) {
                            *sum += u16::from(value);
                        }
                    }
                }
            }
            for (mean, sum) in line.iter_mut().zip(&sums) {
                *mean = (sum / (REDUCTION * REDUCTION) as u16) as u8;
            }
        }
        Self(picture)
    }

    /// Draws what the classifier said of the patch whose top left corner is at `origin` of the frame: a border in the colour of
    /// the class (red: too far, green: in focus, blue: too close; the stronger the farther), the distance index, and a bar as long
    /// as the certainty. Draws nothing outside the picture.
    pub fn mark(&mut self, (x, y): (usize, usize), probabilities: &Probabilities) {
        let Some(index) = vote::decide(probabilities) else {
            return;
        };
        let certainty = vote::certainty(probabilities);
        let [x, y, side] = [x, y, PATCH].map(|pixels| (pixels / REDUCTION) as u32);
        let colour = colour(index);
        let (right, bottom) = (x + side - BORDER, y + side - BORDER);
        for (left, top, width, height) in [
            (x, y, side, BORDER),
            (x, bottom, side, BORDER),
            (x, y, BORDER, side),
            (right, y, BORDER, side),
        ] {
            self.fill((left, top), (width, height), colour);
        }
        let longest = side - 4 * BORDER;
        let length = (longest as f32 * certainty.clamp(0.0, 1.0)) as u32;
        let bar = (x + 2 * BORDER, bottom - BORDER - BAR);
        self.fill(bar, (longest, BAR), Rgb([40, 40, 40]));
        self.fill(bar, (length, BAR), colour);
        self.write((x + 3 * BORDER, y + 3 * BORDER), index, colour);
    }

    fn write(&mut self, (x, y): (u32, u32), index: DistanceIndex, colour: Rgb<u8>) {
        let sign = (index.value() < 0).then_some(MINUS);
        let digit = DIGITS[usize::from(index.value().unsigned_abs()).min(DIGITS.len() - 1)];
        for (at, glyph) in (0..).zip(sign.into_iter().chain([digit])) {
            let x = x + at * 4 * DOT;
            self.fill(
                (x - DOT / 2, y - DOT / 2),
                (4 * DOT, 6 * DOT),
                Rgb([255, 255, 255]),
            );
            for (row, dots) in (0..).zip(glyph) {
                for column in (0..3).filter(|column| dots & (4 >> column) != 0) {
                    self.fill((x + column * DOT, y + row * DOT), (DOT, DOT), colour);
                }
            }
        }
    }

    fn fill(&mut self, (x, y): (u32, u32), (width, height): (u32, u32), colour: Rgb<u8>) {
        let (right, bottom) = ((x + width).min(self.0.width()), (y + height).min(self.0.height()));
        for y in y..bottom {
            for x in x..right {
                self.0.put_pixel(x, y, colour);
            }
        }
    }
}

/// Digits 0 to 4 of 3x5 dots, a row each.
const DIGITS: [[u8; 5]; 5] = [
    [0b111, 0b101, 0b101, 0b101, 0b111],
    [0b010, 0b110, 0b010, 0b010, 0b111],
    [0b111, 0b001, 0b111, 0b100, 0b111],
    [0b111, 0b001, 0b111, 0b001, 0b111],
    [0b101, 0b101, 0b111, 0b001, 0b001],
];
const MINUS: [u8; 5] = [0, 0, 0b111, 0, 0];

/// Colour of a class, RGB; told apart by the colour-blind too.
fn colour(index: DistanceIndex) -> Rgb<u8> {
    Rgb(match index.value() {
        4.. => [165, 15, 21],
        3 => [222, 45, 38],
        2 => [230, 100, 60],
        1 => [200, 130, 40],
        0 => [0, 140, 70],
        -1 => [80, 130, 220],
        ..=-2 => [8, 48, 160],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Instant;

    fn frame(width: usize, height: usize, rgb: Vec<u8>) -> Frame {
        Frame::new(width, height, rgb, Instant::default(), 0).unwrap()
    }

    #[test]
    fn pixels_are_means() {
        let rgb = (0..9 * 5 * 3)
            .map(|at| if at / 3 % 9 < 4 { 10 } else { 100 })
            .collect();
        let picture = Picture::of(&frame(9, 5, rgb));
        assert_eq!(picture.0.dimensions(), (2, 1));
        assert_eq!(picture.0.into_raw(), [10, 10, 10, 100, 100, 100]);
        let checked = (0..16)
            .flat_map(|at| [if at % 2 == 0 { 0 } else { 255 }; 3])
            .collect();
        assert_eq!(Picture::of(&frame(4, 4, checked)).0.into_raw(), [127; 3]);
        assert!(Picture::of(&frame(3, 3, vec![0; 27])).0.is_empty());
    }

    #[test]
    fn a_mark_shows_class_and_certainty_inside_its_patch() {
        let blank = Picture::of(&frame(1200, 600, vec![200; 1200 * 600 * 3]));
        let mut marked = blank.clone();
        let mut sure = [0.0; 7];
        sure[0] = 1.0;
        marked.mark((300, 0), &sure);
        let at = |picture: &Picture, x: u32, y: u32| *picture.0.get_pixel(x, y);
        assert_eq!(at(&marked, 75, 0), colour(DistanceIndex::ALL[0]));
        assert_eq!(at(&marked, 149, 74), colour(DistanceIndex::ALL[0]));
        for (x, y) in [(74, 0), (150, 74), (75, 75)] {
            assert_eq!(
                at(&marked, x, y),
                Rgb([200; 3]),
                "({x}, {y}) lies outside the patch"
            );
        }
        let coloured = |picture: &Picture| {
            let pixels = picture.0.pixels();
            pixels
                .filter(|pixel| **pixel == colour(DistanceIndex::ALL[0]))
                .count()
        };
        let mut unsure = blank.clone();
        let mut doubtful = [0.1; 7];
        doubtful[0] = 0.4;
        unsure.mark((300, 0), &doubtful);
        assert!(coloured(&unsure) < coloured(&marked));
        let mut nonsense = blank.clone();
        nonsense.mark((300, 0), &[f32::NAN; 7]);
        nonsense.mark((9000, 9000), &sure);
        assert_eq!(nonsense, blank);
    }
}
