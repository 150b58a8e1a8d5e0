//! Patches and what is known of them.

use crate::classes::{CLASSES, ClassEdges, DistanceIndex};
use crate::estimate::features::FEATURES;
use crate::units::Micrometres;

/// What is known of a patch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Defocus, µm; positive: the lens is too far.
    pub defocus_um: f64,
    /// Seed of a rendered slide, number of a recorded field; at most [`LARGEST_ID`].
    pub slide: u64,
    /// Number of the frame within the data set.
    pub frame: u64,
    /// Number of the field of view within the data set.
    pub field: u64,
    /// Whether the patch holds next to nothing and was kept all the same ([`Blank::Keep`](super::Blank::Keep)): of a rendered slide, no specimen; of a
    /// recorded image, less contrast than the classifier judges by.
    pub blank: bool,
}

impl Label {
    /// The columns of the files on disk, in order; `distance_index` is 4 to -2, `blank` 0 or 1.
    pub const COLUMNS: [&str; 6] = [
        "defocus_um",
        "slide_seed",
        "frame",
        "field",
        "distance_index",
        "blank",
    ];

    /// The row of the files on disk.
    pub fn row(&self, edges: &ClassEdges) -> [f64; 6] {
        [
            self.defocus_um,
            self.slide as f64,
            self.frame as f64,
            self.field as f64,
            self.class(edges).value().into(),
            f64::from(self.blank),
        ]
    }

    /// The class of its height.
    pub fn class(&self, edges: &ClassEdges) -> DistanceIndex {
        edges.classify(Micrometres(self.defocus_um))
    }
}

/// The largest whole number up to which every one has an f64 of its own, 2^53: labels on disk are f64.
pub const LARGEST_ID: u64 = 1 << 53;

/// Patches with their labels, in order.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// 300x300 RGB bytes each.
    pub patches: Vec<u8>,
    /// Features of the frame each patch is from.
    pub handcrafted: Vec<[f32; FEATURES]>,
    /// What is known of each.
    pub labels: Vec<Label>,
    /// Patches passed over as empty glass.
    pub skipped: usize,
}

impl Samples {
    /// Appends other samples.
    pub fn append(&mut self, mut other: Self) {
        self.patches.append(&mut other.patches);
        self.handcrafted.append(&mut other.handcrafted);
        self.labels.append(&mut other.labels);
        self.skipped += other.skipped;
    }

    /// Patches per class, in the order of the network's outputs.
    pub fn class_counts(&self, edges: &ClassEdges) -> [usize; CLASSES] {
        let mut counts = [0; CLASSES];
        for label in &self.labels {
            counts[label.class(edges).class()] += 1;
        }
        counts
    }
}
