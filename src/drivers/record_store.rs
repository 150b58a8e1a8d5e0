//! Where the record of a controller's first motion is kept: one JSON file a port, beside what is remembered of its position.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::position_store::file_of_port;
use super::whole_file::{read_at_most, write_bytes};
use crate::commissioning::record::Record;

/// Largest file that is read, bytes; a record has some 5000.
const MOST_BYTES: u64 = 256 * 1024;

/// The record of the controller on one port.
#[derive(Clone, Debug)]
pub struct RecordStore {
    path: PathBuf,
}

impl RecordStore {
    /// Of the controller on `port`, in `folder`.
    pub fn of_port(folder: &Path, port: &Path) -> Self {
        Self {
            path: file_of_port(folder, "first-motion", port),
        }
    }

    /// The file, for sentences.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written down; None if nothing was, or nothing that can be understood.
    pub fn load(&self) -> Option<Record> {
        serde_json::from_slice(&read_at_most(&self.path, MOST_BYTES).ok()?).ok()
    }

    /// Writes a record down in place of the one that stands there.
    ///
    /// # Errors
    /// The system's reason.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
        text.push(b'\n');
        write_bytes(&self.path, text)
    }

    /// Removes the record: what was known does not hold any more.
    ///
    /// # Errors
    /// The system's reason; that there is none is no error.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commissioning::questions::Answers;

    #[test]
    fn a_record_comes_back_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let of = |port: &str| RecordStore::of_port(folder.path(), Path::new(port));
        let store = of("/dev/serial/by-id/usb-1a86");
        assert_eq!(store.load(), None);
        store.remove().unwrap();
        let record = Record::new(&Answers::default());
        store.save(&record).unwrap();
        assert_eq!(of("/dev/serial/by-id/usb-1a86").load(), Some(record));
        assert_eq!(of("/dev/ttyUSB0").load(), None);
        for text in ["", "{", "null", "{\"outcome\": \"passed\"}"] {
            fs::write(store.path(), text).unwrap();
            assert_eq!(store.load(), None, "{text:?}");
        }
        store.remove().unwrap();
        assert!(!store.path().exists());
    }
}
