//! The frames of a calibration as a training set: images, and manifest.csv with their heights.
//!
//! The folder has a name that ends in `.partial` until its manifest is written; what is interrupted is removed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder as _};

use crate::calibration::focus_height::focus_height_um;
use crate::calibration::pass::Pass;
use crate::drivers::whole_file::{write_bytes, write_whole};
use crate::frame::Frame;

/// A stack that is being recorded.
pub(super) struct Stack {
    folder: PathBuf,
    unfinished: PathBuf,
    images: usize,
}

/// The images of one pass, in the order of its looks.
#[derive(Default)]
pub(super) struct Images {
    files: Vec<String>,
    place_um: [f64; 2],
    pixel_um: f64,
}

impl Images {
    pub(super) fn new(place_um: [f64; 2], pixel_um: f64) -> Self {
        Self {
            files: Vec::new(),
            place_um,
            pixel_um,
        }
    }

    /// Says how large a pixel of the frames is, µm.
    pub(super) fn set_pixel(&mut self, pixel_um: f64) {
        self.pixel_um = pixel_um;
    }
}

impl Stack {
    /// In a folder of its own below `parent`, named after the time.
    pub(super) fn begin(parent: &Path, made: &str) -> Result<Self> {
        let name: String = made
            .chars()
            .map(|letter| if letter == ':' { '-' } else { letter })
            .collect();
        let folder = parent.join(name);
        let unfinished = folder.with_extension("partial");
        fs::create_dir_all(&unfinished).with_context(|| cannot_write(&unfinished))?;
        Ok(Self {
            folder,
            unfinished,
            images: 0,
        })
    }

    /// Where it will be.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a frame of a pass.
    pub(super) fn add(&mut self, images: &mut Images, field: &str, frame: &Frame) -> Result<()> {
        let file = format!("{field}_{:04}.png", self.images);
        let path = self.unfinished.join(&file);
        let (width, height) = (frame.width() as u32, frame.height() as u32);
        write_whole(&path, |to| -> Result<()> {
            let encoder = PngEncoder::new_with_quality(to, CompressionType::Fast, FilterType::Sub);
            Ok(encoder.write_image(frame.rgb(), width, height, ExtendedColorType::Rgb8)?)
        })
        .with_context(|| cannot_write(&path))?;
        images.files.push(file);
        self.images += 1;
        Ok(())
    }

    /// Writes the manifest, heights above the focus of each pass; those that show none are left out.
    pub(super) fn end(self, passes: &[(Pass, Images)]) -> Result<()> {
        let mut manifest = String::from("file,z_um,stage_z_um,x_um,y_um,field,approach,pixel_size_um\n");
        for (pass, images) in passes {
            let Ok(focus) = focus_height_um(pass) else {
                for file in &images.files {
                    fs::remove_file(self.unfinished.join(file))
                        .with_context(|| cannot_write(&self.unfinished))?;
                }
                continue;
            };
            let [x_um, y_um] = images.place_um;
            let approach = pass.approach.map_or("", |approach| approach.name());
            for (look, file) in pass.looks.iter().zip(&images.files) {
                writeln!(
                    manifest,
                    "{file},{:.4},{:.4},{x_um:.1},{y_um:.1},{},{approach},{}",
                    look.z_um - focus.value,
                    look.z_um,
                    pass.field,
                    images.pixel_um
                )?;
            }
        }
        let path = self.unfinished.join("manifest.csv");
        write_bytes(&path, manifest).with_context(|| cannot_write(&path))?;
        fs::rename(&self.unfinished, &self.folder).with_context(|| cannot_write(&self.folder))
    }
}

impl Drop for Stack {
    /// What was not ended is of no use.
    fn drop(&mut self) {
        // After an end there is none of that name; where it cannot be removed, its name says that it is not whole.
        drop(fs::remove_dir_all(&self.unfinished));
    }
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}: free some space, or name another folder in calibrator.stacks",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::pass::{Approach, Look};
    use crate::dataset::stack::parse;
    use crate::units::Instant;

    /// A pass over 31 heights, with a peak or without, and its images.
    fn pass(stack: &mut Stack, field: &str, peak: f64) -> (Pass, Images) {
        let mut images = Images::new([10.0, -20.0], 0.08625);
        let frame = Frame::new(8, 6, vec![90; 144], Instant::default(), 0).unwrap();
        let look = |at: i32| {
            stack.add(&mut images, field, &frame).unwrap();
            let z_um = 40.0 + 0.5 * f64::from(at);
            Look {
                z_um,
                sharpness: Some(0.2 + peak * (-((z_um - 42.0) / 2.0).powi(2)).exp()),
                estimate_um: None,
            }
        };
        let looks = (-15..=15).map(look).collect();
        let pass = Pass {
            field: field.to_owned(),
            approach: Some(Approach::FromBelow),
            looks,
        };
        (pass, images)
    }

    #[test]
    fn what_is_ended_is_a_table_that_a_training_set_is_made_of() {
        let parent = tempfile::tempdir().unwrap();
        let mut stack = Stack::begin(parent.path(), "2026-01-02T03:04:05Z").unwrap();
        let folder = stack.folder().to_owned();
        let passes = [pass(&mut stack, "place1", 1.0), pass(&mut stack, "place2", 0.0)];
        stack.end(&passes).unwrap();
        let lines = parse(&fs::read(folder.join("manifest.csv")).unwrap()).unwrap();
        assert_eq!(lines.len(), 31);
        for line in &lines {
            assert!(folder.join(&line.file).is_file() && line.field.as_deref() == Some("place1"));
            assert!(
                (line.stage_z_um.unwrap() - line.z_um - 42.0).abs() < 0.1,
                "{line:?}"
            );
        }
        // The images of the place that shows no focus are gone.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 32);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_interrupted_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let mut stack = Stack::begin(parent.path(), "now").unwrap();
        _ = pass(&mut stack, "place1", 1.0);
        drop(stack);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        let message = Stack::begin(Path::new("/proc/none"), "now")
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains("calibrator.stacks"), "{message}");
    }
}
