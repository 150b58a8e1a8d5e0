//! The small file that remembers, for each motion controller, how it was left.
//!
//! One JSON file a controller, named after its port, replaced as a whole and never edited. It is written when a motion begins and
//! when it has ended, so it is not synced to the disk each time: a computer that loses its power leaves an old record, and an
//! old record counts only if the controller still carries the mark and the position that stand in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::stage::memory::Remembered;

/// Largest file that is read, bytes; a record has some 200.
const MOST_BYTES: u64 = 64 * 1024;

/// Where the record of one controller is kept; or nowhere.
#[derive(Debug)]
pub struct PositionStore {
    path: Option<PathBuf>,
    written: Option<Remembered>,
    is_loaded: bool,
    /// Why it could not be written the last time.
    trouble: Option<String>,
}

impl PositionStore {
    /// Remembers nothing: after each start the position has to be vouched for.
    pub const fn none() -> Self {
        Self {
            path: None,
            written: None,
            is_loaded: false,
            trouble: None,
        }
    }

    /// The record of the controller on `port`, in `folder`.
    pub fn of_port(folder: &Path, port: &Path) -> Self {
        Self {
            path: Some(file_of_port(folder, "position", port)),
            ..Self::none()
        }
    }

    /// What was written down; `None` if nothing was, or nothing that can be read.
    pub fn load(&self) -> Option<Remembered> {
        let path = self.path.as_ref()?;
        let metadata = fs::symlink_metadata(path).ok()?;
        if !metadata.is_file() || metadata.len() > MOST_BYTES {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// The same the first time; `None` from then on: after that this process knows better.
    pub fn load_once(&mut self) -> Option<Option<Remembered>> {
        if std::mem::replace(&mut self.is_loaded, true) {
            None
        } else {
            Some(self.load())
        }
    }

    /// Writes a record down, unless it is the one that stands there.
    ///
    /// # Errors
    /// The system's reason, once for each new one.
    pub fn save(&mut self, record: &Remembered) -> io::Result<()> {
        if self.written.as_ref() == Some(record) {
            return Ok(());
        }
        let Some(path) = self.path.clone() else {
            return Ok(());
        };
        match write(&path, record) {
            Ok(()) => {
                self.written = Some(*record);
                self.trouble = None;
                Ok(())
            }
            Err(error) => {
                // What cannot be replaced must not stay.
                self.written = None;
                _ = fs::remove_file(&path).is_ok();
                let reason = error.to_string();
                let is_news = self.trouble.as_ref() != Some(&reason);
                self.trouble = Some(reason);
                if is_news { Err(error) } else { Ok(()) }
            }
        }
    }

    /// The next record is written whatever stands in the file: another process may have replaced it.
    pub fn forget_written(&mut self) {
        self.written = None;
    }

    /// Removes the record.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            // One that is not there is removed.
            _ = fs::remove_file(path).is_ok();
        }
    }

    /// The file, for sentences.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

fn write(path: &Path, record: &Remembered) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let written = serde_json::to_vec_pretty(record)
        .map_err(io::Error::other)
        .and_then(|text| fs::write(&aside, text))
        .and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        _ = fs::remove_file(&aside).is_ok();
    }
    written
}

/// The file of a port that holds such a thing: the port's whole path, with what separates folders replaced.
pub(super) fn file_of_port(folder: &Path, thing: &str, port: &Path) -> PathBuf {
    let name: String = port
        .to_string_lossy()
        .trim_start_matches('/')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                c
            } else {
                '-'
            }
        })
        .collect();
    // File systems end names at 255 bytes; the end tells ports apart.
    let cut = name.len().saturating_sub(200);
    folder.join(format!("{thing}-{}.json", &name[cut..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let port = Path::new("/dev/serial/by-id/usb-1a86_USB2.0-Serial-if00-port0");
        let mut store = PositionStore::of_port(folder.path(), port);
        assert_eq!(store.load(), None);
        let record = Remembered::powered_up_at([1.0, 2.0, 3.5]);
        store.save(&record).unwrap();
        assert_eq!(PositionStore::of_port(folder.path(), port).load(), Some(record));
        assert_eq!(
            PositionStore::of_port(folder.path(), Path::new("/dev/ttyUSB0")).load(),
            None
        );
        let path = store.path().unwrap();
        for text in ["", "{", "{\"clean\": true}", "[]", "null", "\u{0}"] {
            fs::write(path, text).unwrap();
            assert_eq!(store.load(), None, "{text:?}");
        }
        fs::write(path, vec![b' '; 100_000]).unwrap();
        assert_eq!(store.load(), None);
        assert_eq!(PositionStore::none().load(), None);
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut store = PositionStore::of_port(&gone, Path::new("/dev/ttyUSB0"));
        let record = Remembered::powered_up_at([0.0; 3]);
        assert!(store.save(&record).is_err());
        assert!(store.save(&record).is_ok(), "the same trouble again");
        fs::create_dir(&gone).unwrap();
        store.save(&record).unwrap();
        assert_eq!(store.load(), Some(record));
    }
}
