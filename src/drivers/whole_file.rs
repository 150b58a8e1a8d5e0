//! Files for people are written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Writes beside `path`, waits until it is on the disk, and renames, so that a file that exists under its name is whole. What stood there
/// before stays until then. A device or a pipe is written to as it is.
///
/// # Errors
/// Those of `write` and of the disk; nothing is left beside `path` then.
pub fn write_whole<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let mut device = BufWriter::new(OpenOptions::new().write(true).open(path)?);
        write(&mut device)?;
        return Ok(device.flush()?);
    }
    // Through a link, the file it leads to is replaced and the link stays.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let unfinished = beside(&path);
    let attempt = || -> Result<(), E> {
        let mut file = BufWriter::new(File::create(&unfinished)?);
        write(&mut file)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(fs::rename(&unfinished, &path)?)
    };
    attempt().inspect_err(|_| {
        // Half a file would only be in the way on a full disk; that it cannot be removed is no second error.
        drop(fs::remove_file(&unfinished));
    })
}

/// Writes these bytes, as [`write_whole`].
///
/// # Errors
/// As [`write_whole`].
pub fn write_bytes(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    write_whole(path, |file| file.write_all(bytes.as_ref()))
}

/// The name of the file that becomes `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// If it cannot be read or is larger.
pub fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

/// Tells a file from the one that had its name before.
#[cfg(unix)]
pub type Version = (u64, u64, std::time::SystemTime);

/// Which file has this name now; None if there is none.
#[cfg(unix)]
pub fn version(path: &Path) -> Option<Version> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write_bytes(&path, "old").unwrap();
        let failed: io::Result<()> = write_whole(&path, |file| {
            file.write_all(b"half a new")?;
            file.flush()?;
            Err(io::Error::other("full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "full");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        write_bytes(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_bytes(&folder.path().join("none/a.png"), "x").is_err());
        assert!(write_bytes(folder.path(), "x").is_err());
    }

    #[test]
    fn links_and_devices_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("b"));
        write_bytes(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write_bytes(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        write_bytes(Path::new("/dev/null"), "x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        // The device that is always full.
        assert!(write_bytes(Path::new("/dev/full"), vec![0; 10_000]).is_err());
    }

    #[test]
    fn files_without_end_are_not_read() {
        let message = read_at_most(Path::new("/dev/zero"), 1000)
            .unwrap_err()
            .to_string();
        assert!(message.contains("larger than 1000 bytes"), "{message}");
    }
}
