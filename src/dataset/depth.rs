//! How many bits the values of 16-bit images use.
//!
//! Cameras of 10, 12 or 14 bits come in files of 16, with nothing in the file that says which. Taken for 16 bits, 12-bit values leave
//! 16 levels of 256: black. So the largest value of a whole set counts, never that of one image: the set stays one in brightness.

/// The depths there are.
const DEPTHS: [u32; 5] = [8, 10, 12, 14, 16];

/// What is white in a set of 16-bit images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    bits: u32,
}

impl Depth {
    /// The least depth of 8, 10, 12, 14 or 16 bits that holds the largest value of a set.
    pub fn of(largest: u16) -> Self {
        let holds = |bits: &u32| u32::from(largest) < 1 << bits;
        let bits = DEPTHS.into_iter().find(holds).unwrap_or(16);
        Self { bits }
    }

    /// A depth that is known; None outside 8 to 16.
    pub fn known(bits: u32) -> Option<Self> {
        (8..=16).contains(&bits).then_some(Self { bits })
    }

    /// Bits in use, 8 to 16.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// The value of white.
    pub fn white(self) -> u16 {
        ((1_u32 << self.bits) - 1) as u16
    }

    /// A value as one of 0 to 255, rounded; one above white is white.
    pub fn to_byte(self, value: u16) -> u8 {
        let (value, white) = (u32::from(value.min(self.white())), u32::from(self.white()));
        ((255 * value + white / 2) / white) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_depth_that_holds_the_largest_value_counts() {
        for (largest, bits) in [
            (0, 8),
            (255, 8),
            (256, 10),
            (1023, 10),
            (1024, 12),
            (4095, 12),
            (4096, 14),
            (16383, 14),
            (16384, 16),
            (65535, 16),
        ] {
            assert_eq!(Depth::of(largest).bits(), bits, "{largest}");
        }
    }

    #[test]
    fn brightness_is_kept() {
        for bits in 8..=16 {
            let depth = Depth::known(bits).unwrap();
            assert_eq!((depth.to_byte(0), depth.to_byte(depth.white())), (0, 255));
            assert_eq!(depth.to_byte(u16::MAX), 255);
            for value in 0..=depth.white() {
                let exact = 255.0 * f64::from(value) / f64::from(depth.white());
                assert!(
                    (f64::from(depth.to_byte(value)) - exact).abs() <= 0.5,
                    "{bits}: {value}"
                );
            }
        }
        assert_eq!((Depth::known(7), Depth::known(17)), (None, None));
    }
}
