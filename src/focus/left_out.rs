//! Which patches vote, and whether that has changed.

/// Changes of the patches that vote, in one run, after which what was seen before them does not count: with each the lens may descend by
/// one step more without having been seen to follow.
const MOST_CHANGES: u32 = 3;

/// Whether other patches vote than before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LeftOut {
    /// Patches without a vote in the newest estimate that was compared.
    patches: u16,
    changes: u32,
}

impl LeftOut {
    /// A new run: changes count from here.
    pub(super) fn restart(&mut self) {
        self.changes = 0;
    }

    /// Whether what earlier looks showed does not count any more.
    pub(super) fn is_news(&mut self, patches: u16) -> bool {
        let is_other = std::mem::replace(&mut self.patches, patches) != patches;
        self.changes += u32::from(is_other);
        is_other && self.changes <= MOST_CHANGES
    }
}
