//! A file in force: read when it is named, and again when it is replaced.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::drivers::whole_file::{Version, version};

/// What a file says that a parameter names and the action `calibrate` writes, for one objective.
pub(super) struct InForce<T> {
    path: PathBuf,
    objective: String,
    /// Which file was read.
    version: Option<Version>,
    state: State<T>,
}

/// What there is to use.
enum State<T> {
    /// No file is named.
    None,
    /// The file is not there yet.
    Absent,
    /// It was read.
    Ready(T),
    /// It cannot be used; why.
    Unusable(String),
}

impl<T> Default for InForce<T> {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            objective: String::new(),
            version: None,
            state: State::None,
        }
    }
}

impl<T> InForce<T> {
    /// Reads the file that `path` names by `read`, which is also given the objective, if it is another than the one that was read; whether anything
    /// has changed. An empty path names none. `read` has nothing where the file has gone meanwhile.
    pub(super) fn refresh(
        &mut self,
        path: &str,
        objective: &str,
        read: impl FnOnce(&Path, &str) -> Result<Option<T>>,
    ) -> bool {
        let path = Path::new(path);
        let version = version(path);
        if (path, objective, version) == (&self.path, &self.objective, self.version) {
            return false;
        }
        (self.path, self.objective, self.version) = (path.to_owned(), objective.to_owned(), version);
        self.state = match (path.as_os_str().is_empty(), version) {
            (true, _) => State::None,
            (false, None) => State::Absent,
            (false, Some(_)) => match read(path, objective) {
                Ok(Some(content)) => State::Ready(content),
                Ok(None) => State::Absent,
                Err(error) => State::Unusable(format!("{error:#}")),
            },
        };
        true
    }

    /// What the file says, if it was read.
    pub(super) fn ready(&self) -> Option<&T> {
        match &self.state {
            State::Ready(content) => Some(content),
            State::None | State::Absent | State::Unusable(_) => None,
        }
    }

    /// Why the file cannot be used.
    pub(super) fn error(&self) -> Option<&str> {
        match &self.state {
            State::Unusable(reason) => Some(reason),
            State::None | State::Absent | State::Ready(_) => None,
        }
    }

    /// What there is to say of it; of what was read, what `describe` says.
    pub(super) fn describe(&self, describe: impl FnOnce(&T) -> String) -> String {
        let path = self.path.display();
        match &self.state {
            State::None => "none".to_owned(),
            State::Absent => format!("none yet: {path} is not there, call the action calibrate"),
            State::Ready(content) => format!("{} ({path})", describe(content)),
            State::Unusable(reason) => reason.clone(),
        }
    }
}
