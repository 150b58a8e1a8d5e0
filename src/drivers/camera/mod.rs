//! Where frames come from: the seam between a camera node and a camera.

mod recorded;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::frame::Frame;

pub use recorded::{FolderSource, Pace, ZStackSource};

/// A source of frames that is open. It is dropped to let go of the device.
pub trait FrameSource: Send {
    /// The next frame, stamped in the middle of its exposure; `None` when the source has ended for good. Dropping the future before it is
    /// done loses nothing but time: it is raced against everything else that a node hears.
    ///
    /// # Errors
    /// Why the source has to be let go of, one sentence with a remedy.
    fn next_frame(&mut self) -> BoxFuture<'_, anyhow::Result<Option<Arc<Frame>>>>;

    /// Frames are wanted from now on, or no more: a source that costs light or time rests meanwhile.
    fn look(&mut self, _is_wanted: bool) {}

    /// Called once a second, wanted or not: for sources whose other end may have missed what it was told.
    fn remind(&self) {}

    /// Whether the source has ended although no frame was asked for.
    fn has_ended(&self) -> bool {
        false
    }

    /// What is worth telling in the diagnostics: names and values.
    fn health(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}
