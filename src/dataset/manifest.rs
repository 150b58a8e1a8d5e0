//! What `manifest.json` says of a data set.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DatasetConfig, Label};
use crate::classes::{CLASSES, ClassEdges, DistanceIndex};

/// What `manifest.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this package.
    pub version: String,
    /// Every shard is written.
    pub complete: bool,
    /// What the set was made by.
    pub config: DatasetConfig,
    /// Side of a pixel in the object plane, µm.
    pub object_pixel_um: f64,
    /// Depth of field of the objective, µm.
    pub depth_of_field_um: f64,
    /// Heights between the classes.
    pub class_edges: ClassEdges,
    /// Index of each class, in the order of `class_counts`.
    pub class_order: [i8; CLASSES],
    /// Columns of the labels, float64.
    pub label_columns: Vec<String>,
    /// Patches of all shards.
    pub patches: usize,
    /// Patches passed over as empty glass.
    pub skipped_blank: usize,
    /// Patches of each class.
    pub class_counts: [usize; CLASSES],
    /// What recorded patches were cut from; none for rendered ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Recorded>,
    /// The shards that are written whole.
    pub shards: Vec<Shard>,
}

/// Patches that lie in files of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number, part of the files' names.
    pub number: usize,
    /// Frames its patches are from.
    #[serde(default)]
    pub frames: usize,
    /// Seed of its first slide.
    pub first_seed: u64,
    /// Slides it holds.
    pub slides: usize,
    /// Patches it holds.
    pub patches: usize,
    /// Patches passed over as empty glass.
    pub skipped_blank: usize,
    /// Patches of each class.
    pub class_counts: [usize; CLASSES],
}

/// What the patches of a set were cut from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Names of the fields; the labels' slide and field are places in this list.
    pub fields: Vec<String>,
    /// The images; the labels' frame is a place in this list.
    pub images: Vec<RecordedImage>,
    /// Grids laid over each image.
    pub shifts: usize,
    /// Bits that 16-bit images use; none if all have 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
}

/// An image of a z-stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedImage {
    /// Name within the folder.
    pub file: String,
    /// Page of the file, counted from 1; none if it has but one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Name of the field of view.
    pub field: String,
    /// Defocus, µm, its sign as in the labels.
    pub z_um: f64,
}

impl Manifest {
    /// That of a set of which nothing is written yet.
    pub fn new(config: &DatasetConfig) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            complete: false,
            object_pixel_um: config.objective.object_pixel_um(),
            depth_of_field_um: config.objective.depth_of_field_um(),
            class_edges: config.edges(),
            class_order: DistanceIndex::ALL.map(|index| index.value()),
            label_columns: Label::COLUMNS.map(str::to_owned).to_vec(),
            config: config.clone(),
            patches: 0,
            skipped_blank: 0,
            class_counts: [0; CLASSES],
            recorded: None,
            shards: Vec::new(),
        }
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// If it is not the manifest of a data set.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Adds up what the shards hold.
    pub fn total(&mut self) {
        let sum = |count: fn(&Shard) -> usize| {
            let counts = self.shards.iter().map(count);
            counts.fold(0, usize::saturating_add)
        };
        (self.patches, self.skipped_blank) = (sum(|shard| shard.patches), sum(|shard| shard.skipped_blank));
        self.class_counts = std::array::from_fn(|class| {
            let counts = self.shards.iter().map(|shard| shard.class_counts[class]);
            counts.fold(0, usize::saturating_add)
        });
    }
}

/// What scoring needs to know of a set, of this version or an older one.
#[derive(Clone, Debug, Deserialize)]
pub struct Outline {
    /// Every shard is written.
    pub complete: bool,
    /// Heights between the classes, by name or in order.
    #[serde(alias = "class_edges_um")]
    pub class_edges: Value,
    /// Side of a pixel in the object plane, µm.
    pub object_pixel_um: Option<f64>,
    /// Columns of the labels.
    pub label_columns: Vec<String>,
    /// What the set was made by.
    pub config: Option<Value>,
    /// Its shards.
    pub shards: Vec<ShardOutline>,
}

/// What scoring needs to know of a shard.
#[derive(Clone, Debug, Deserialize)]
pub struct ShardOutline {
    /// Its number, part of the files' names.
    pub number: usize,
    /// Patches it holds.
    pub patches: usize,
}

impl Outline {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// If it is not the manifest of a data set.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> String {
        let config = crate::dataset::tests::config(crate::dataset::Heights::Continuous);
        let mut manifest = Manifest::new(&config);
        manifest.recorded = Some(Recorded {
            fields: vec!["left".to_owned()],
            images: vec![RecordedImage {
                file: "a.tif".to_owned(),
                page: Some(2),
                field: "left".to_owned(),
                z_um: -3.5,
            }],
            shifts: 1,
            bits: Some(12),
        });
        serde_json::to_string(&manifest).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let read = Manifest::parse(text().as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text());
        assert_eq!(read.recorded.unwrap().images[0].page, Some(2));
        assert!(Manifest::parse(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn damaged_text_gets_an_answer(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = text().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut.index(40));
            drop(Outline::parse(&bytes));
            if let Ok(mut manifest) = Manifest::parse(&bytes) {
                manifest.total();
            }
        }
    }
}
