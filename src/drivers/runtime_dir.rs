//! The folders for what a running graph leaves on disk: names of virtual ports and their locks, and what a motion controller's
//! host has to remember between two starts.
//!
//! Another user who may write to such a folder can lay a symbolic link or a FIFO there. So each belongs to this user, is a real
//! folder, and is open to nobody else (0700); one that is not is refused, not repaired. The places are those of the XDG base
//! directory specification (<https://specifications.freedesktop.org/basedir-spec/latest/>).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Permission bits of anybody but the owner.
const OTHERS: u32 = 0o077;

/// Why there is no folder of our own.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// It cannot be made.
    #[error("cannot make the folder {}: {source}; make it writable, or name another place in XDG_RUNTIME_DIR and XDG_STATE_HOME", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something else has its name.
    #[error("{} is not a folder: remove it, or name another place in XDG_RUNTIME_DIR and XDG_STATE_HOME", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// It belongs to another user.
    #[error("the folder {} belongs to user {owner}, not to this one ({user}): remove it, or name another place in XDG_RUNTIME_DIR and XDG_STATE_HOME", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Others may use it.
    #[error("the folder {} is open to other users (mode {mode:03o}): run chmod 700 on it", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Where names and locks of this user's virtual ports are: `$XDG_RUNTIME_DIR/hhnet`, or `hhnet-<uid>` in the folder for temporary
/// files. It is made if it is absent, and empty after a restart of the computer.
///
/// # Errors
/// If it cannot be made, or is not a folder of this user alone.
pub fn runtime_dir() -> Result<PathBuf, RuntimeDirError> {
    Places::from_environment().runtime_dir()
}

/// Where what has to outlive a restart is: `$XDG_STATE_HOME/hhnet`, or `~/.local/state/hhnet`, or [`runtime_dir`] for a user
/// without a home of their own. It is made if it is absent.
///
/// # Errors
/// As [`runtime_dir`].
pub fn state_dir() -> Result<PathBuf, RuntimeDirError> {
    Places::from_environment().state_dir()
}

/// What the environment says.
struct Places {
    runtime: Option<PathBuf>,
    state: Option<PathBuf>,
    home: Option<PathBuf>,
    temporary: PathBuf,
    user: u32,
}

impl Places {
    fn from_environment() -> Self {
        // As the specification says, a relative path is ignored.
        let path = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        Self {
            runtime: path("XDG_RUNTIME_DIR"),
            state: path("XDG_STATE_HOME"),
            home: path("HOME"),
            temporary: std::env::temp_dir(),
            user: nix::unistd::geteuid().as_raw(),
        }
    }

    fn runtime_dir(&self) -> Result<PathBuf, RuntimeDirError> {
        // After `sudo` it is the other user's: root must leave nothing there.
        let own = self.runtime.as_ref().filter(|path| self.owns(path));
        let folder = own.map_or_else(
            || self.temporary.join(format!("hhnet-{}", self.user)),
            |path| path.join("hhnet"),
        );
        self.made(folder)
    }

    fn state_dir(&self) -> Result<PathBuf, RuntimeDirError> {
        let home = self.home.as_ref().map(|home| home.join(".local/state"));
        let state = self.state.clone().or(home);
        // The first part of the path that exists says whose place it is.
        let is_own = |path: &PathBuf| {
            let known = path.ancestors().find(|path| path.symlink_metadata().is_ok());
            known.is_some_and(|known| self.owns(known))
        };
        match state.filter(is_own) {
            Some(state) => self.made(state.join("hhnet")),
            None => self.runtime_dir(),
        }
    }

    fn owns(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == self.user)
    }

    /// The folder, made if it is absent and checked.
    fn made(&self, path: PathBuf) -> Result<PathBuf, RuntimeDirError> {
        if path.symlink_metadata().is_err() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| RuntimeDirError::Make {
                path: path.clone(),
                source,
            })?;
        }
        // The look follows no link: a link laid here leads to a folder that another user chose.
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(source) => return Err(RuntimeDirError::Make { path, source }),
        };
        let (owner, user, mode) = (metadata.uid(), self.user, metadata.mode() & 0o777);
        match metadata.is_dir() {
            false => Err(RuntimeDirError::NoFolder { path }),
            true if owner != user => Err(RuntimeDirError::Foreign { path, owner, user }),
            true if mode & OTHERS != 0 => Err(RuntimeDirError::Open { path, mode }),
            true => Ok(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            runtime: None,
            state: None,
            home: None,
            temporary: root.to_owned(),
            user: nix::unistd::geteuid().as_raw(),
        }
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn the_environment_names_the_place_and_the_folder_is_ours_alone() {
        let root = tempfile::tempdir().unwrap();
        let user = nix::unistd::geteuid();
        let bare = places(root.path());
        assert_eq!(
            bare.runtime_dir().unwrap(),
            root.path().join(format!("hhnet-{user}"))
        );
        assert_eq!(bare.state_dir().unwrap(), bare.runtime_dir().unwrap());
        let full = Places {
            runtime: Some(root.path().to_owned()),
            home: Some(root.path().to_owned()),
            ..places(root.path())
        };
        assert_eq!(full.runtime_dir().unwrap(), root.path().join("hhnet"));
        assert_eq!(full.state_dir().unwrap(), root.path().join(".local/state/hhnet"));
        let named = Places {
            state: Some(root.path().join("deep/state")),
            ..full
        };
        assert_eq!(named.state_dir().unwrap(), root.path().join("deep/state/hhnet"));
        for folder in [bare.runtime_dir(), named.runtime_dir(), named.state_dir()] {
            assert_eq!(mode(&folder.unwrap()), 0o700);
        }
    }

    #[test]
    fn another_users_place_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let other = Places {
            runtime: Some(root.path().to_owned()),
            state: Some(root.path().to_owned()),
            home: Some(root.path().to_owned()),
            user: nix::unistd::geteuid().as_raw() + 1,
            ..places(root.path())
        };
        // The folder for temporary files is the test's own, so what is made there is the wrong user's.
        assert!(matches!(
            other.runtime_dir(),
            Err(RuntimeDirError::Foreign { .. })
        ));
        assert!(matches!(other.state_dir(), Err(RuntimeDirError::Foreign { .. })));
        assert!(!root.path().join("hhnet").exists());
    }

    #[test]
    fn a_link_a_file_and_an_open_folder_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let folder = places.runtime_dir().unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let refusal = places.runtime_dir().unwrap_err().to_string();
        assert!(
            refusal.contains("mode 755") && refusal.contains("chmod 700"),
            "{refusal}"
        );
        fs::remove_dir(&folder).unwrap();
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &folder).unwrap();
        assert!(matches!(
            places.runtime_dir(),
            Err(RuntimeDirError::NoFolder { .. })
        ));
        fs::remove_file(&folder).unwrap();
        symlink(root.path().join("nowhere"), &folder).unwrap();
        assert!(matches!(
            places.runtime_dir(),
            Err(RuntimeDirError::NoFolder { .. })
        ));
        fs::remove_file(&folder).unwrap();
        fs::write(&folder, "").unwrap();
        let refusal = places.runtime_dir().unwrap_err().to_string();
        assert!(refusal.contains("is not a folder"), "{refusal}");
    }
}
