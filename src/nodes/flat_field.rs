//! The flat field in force: read from its file, and again when the file is replaced.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::in_force::InForce;
use crate::drivers::flat_field_file::FlatFieldFile;
use crate::frame::Frame;

/// What divides the frames of one node.
#[derive(Default)]
pub(super) struct FlatFieldInForce {
    file: InForce<Box<FlatFieldFile>>,
    /// Memory of a frame that was divided.
    spare: Vec<u8>,
}

impl FlatFieldInForce {
    /// Reads the file that `path` names, if it is another than the one that was read; whether anything has changed. An empty path names
    /// none. Reading takes up to a second.
    pub(super) fn refresh(&mut self, path: &str, objective: &str) -> bool {
        let read = |path: &Path, objective: &str| read(path, objective).map(|file| Some(Box::new(file)));
        self.file.refresh(path, objective, read)
    }

    /// The frame divided by the flat field; the frame itself where there is none.
    ///
    /// # Errors
    /// If the frame is none of those that the flat field is for, or the file cannot be used.
    pub(super) fn correct(&mut self, frame: &Arc<Frame>) -> Result<Arc<Frame>> {
        if let Some(reason) = self.file.error() {
            bail!("{reason}");
        }
        let Some(file) = self.file.ready() else {
            return Ok(frame.clone());
        };
        let memory = std::mem::take(&mut self.spare);
        Ok(Arc::new(file.flat.correct_in(frame, memory)?))
    }

    /// Takes back a frame that nothing needs any more, for its memory.
    pub(super) fn take_back(&mut self, frame: Arc<Frame>) {
        if let (Some(_), Ok(frame)) = (self.file.ready(), Arc::try_unwrap(frame)) {
            self.spare = frame.into_rgb();
        }
    }

    /// When the flat field in force was made; empty without one.
    pub(super) fn made(&self) -> &str {
        self.file.ready().map_or("", |file| &file.record.made)
    }

    /// What there is to say of it.
    pub(super) fn describe(&self) -> String {
        self.file.describe(|file| format!("of {}", file.record.made))
    }
}

fn read(path: &Path, objective: &str) -> Result<FlatFieldFile> {
    let file = FlatFieldFile::read(path)?;
    match &file.record.objective {
        Some(made_with) if made_with != objective => bail!(
            "the flat field {} was made with objective {made_with}, not {objective}: name another file in microscope.flat_field, or calibrate \
             FLAT_FIELD again",
            path.display()
        ),
        _ => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::flat_field_file::Record;
    use crate::estimate::flat_field::making::Quality;
    use crate::estimate::flat_field::{FlatField, STEPS};
    use crate::units::Instant;

    fn write(path: &Path, level: u16, objective: Option<&str>) {
        let flat = FlatField::new(300, 300, vec![STEPS * level; 270_000]).unwrap();
        let quality = Quality {
            frames: 5,
            falloff: 0.0,
            difference: 0.0,
            left_over: 0.0,
        };
        let record = Record::new(&flat, &quality, objective.map(str::to_owned), None);
        FlatFieldFile { flat, record }.write(path).unwrap();
    }

    #[test]
    fn a_file_is_in_force_as_soon_as_it_is_there_and_as_long_as_it_fits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flat.png");
        let name = path.to_str().unwrap();
        let frame = Arc::new(Frame::new(300, 300, vec![150; 270_000], Instant::default(), 0).unwrap());
        let mut flat = FlatFieldInForce::default();
        assert!(!flat.refresh("", "") && flat.describe() == "none");
        assert!(flat.refresh(name, "40x0.65") && flat.describe().contains("is not there"));
        assert!(Arc::ptr_eq(&flat.correct(&frame).unwrap(), &frame));

        write(&path, 150, Some("40x0.65"));
        assert!(flat.refresh(name, "40x0.65") && !flat.refresh(name, "40x0.65"));
        assert!(flat.describe().contains(flat.made()) && !flat.made().is_empty());
        let corrected = flat.correct(&frame).unwrap();
        assert!(!Arc::ptr_eq(&corrected, &frame));
        flat.take_back(corrected);
        assert_eq!(flat.correct(&frame).unwrap().rgb(), frame.rgb());

        // Replaced by one of another exposure, then for another objective, then by nothing of use.
        write(&path, 70, None);
        assert!(flat.refresh(name, "40x0.65"));
        let message = flat.correct(&frame).unwrap_err().to_string();
        assert!(message.contains("2.14 times as bright"), "{message}");
        write(&path, 150, Some("10x0.25"));
        assert!(flat.refresh(name, "40x0.65") && flat.made().is_empty());
        let message = flat.correct(&frame).unwrap_err().to_string();
        assert!(message.contains("10x0.25, not 40x0.65"), "{message}");
        assert!(flat.refresh(name, "10x0.25") && flat.correct(&frame).is_ok());
        std::fs::write(&path, "no picture").unwrap();
        assert!(flat.refresh(name, "10x0.25") && flat.correct(&frame).is_err());
    }
}
