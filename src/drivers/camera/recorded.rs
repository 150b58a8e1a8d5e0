//! Recorded images in place of a camera: a folder over and over, or the image of a z-stack nearest to the height of the stage.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::{BoxFuture, FutureExt as _};
use image::RgbImage;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::FrameSource;
use crate::drivers::TimeSource;
use crate::drivers::image_files::{ImageFolder, SourceError, ZStack};
use crate::frame::Frame;
use crate::units::Micrometres;

/// When the frames of a recording are due, and what they are stamped with.
pub struct Pace {
    ticks: Interval,
    clock: TimeSource,
    sequence: u64,
}

impl Pace {
    /// A frame every `period`, which is positive. Needs a running tokio runtime.
    pub fn new(period: Duration, clock: TimeSource) -> Self {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self {
            ticks,
            clock,
            sequence: 0,
        }
    }

    /// Makes a frame of what is shown now.
    fn frame(&mut self, image: RgbImage) -> Result<Option<Arc<Frame>>> {
        let sequence = self.sequence;
        self.sequence += 1;
        let stamp = (self.clock)();
        let (width, height) = (image.width() as usize, image.height() as usize);
        Ok(Some(Arc::new(Frame::new(
            width,
            height,
            image.into_raw(),
            stamp,
            sequence,
        )?)))
    }
}

/// The images of a folder in name order, over and over.
pub struct FolderSource {
    folder: ImageFolder,
    pace: Pace,
}

impl FolderSource {
    /// Opens a folder, which decodes every image in it once: seconds.
    ///
    /// # Errors
    /// If the folder is unreadable or empty, or an image is unreadable or too small.
    pub fn open(path: &Path, pace: Pace) -> Result<Self, SourceError> {
        let folder = ImageFolder::open(path)?;
        Ok(Self { folder, pace })
    }
}

impl FrameSource for FolderSource {
    fn next_frame(&mut self) -> BoxFuture<'_, Result<Option<Arc<Frame>>>> {
        async {
            self.pace.ticks.tick().await;
            let image = tokio::task::block_in_place(|| self.folder.next_image())?;
            self.pace.frame(image)
        }
        .boxed()
    }
}

/// A recorded z-stack: the image taken nearest to the height of the stage.
pub struct ZStackSource {
    stack: ZStack,
    /// Height of the stage at which the stack's zero lies.
    zero: Micrometres,
    heights: watch::Receiver<Micrometres>,
    pace: Pace,
}

impl ZStackSource {
    /// Opens a stack, which decodes every image in it once: seconds. `heights` holds the newest height of the stage.
    ///
    /// # Errors
    /// If the manifest or an image it names cannot be used.
    pub fn open(
        path: &Path,
        zero: Micrometres,
        heights: watch::Receiver<Micrometres>,
        pace: Pace,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            stack: ZStack::open(path)?,
            zero,
            heights,
            pace,
        })
    }
}

impl FrameSource for ZStackSource {
    fn next_frame(&mut self) -> BoxFuture<'_, Result<Option<Arc<Frame>>>> {
        async {
            self.pace.ticks.tick().await;
            let height = *self.heights.borrow();
            let stack = &mut self.stack;
            let (_, image) = tokio::task::block_in_place(|| stack.nearest(height - self.zero))?;
            self.pace.frame(image.clone())
        }
        .boxed()
    }
}
