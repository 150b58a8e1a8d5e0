//! Whether a camera shows recorded images: those cannot show what the stage does, so it must not be moved by them.

use anyhow::Result;
use r2r::hhnet::msg::About;
use tokio::sync::watch;

use crate::ros::node::{Builder, latched};

/// What a camera node of recorded images names among its capabilities.
pub const RECORDED_FRAMES: &str = "recorded_frames";

/// Why nothing moves by recorded images.
pub const REFUSAL: &str = "the camera shows recorded images, which cannot show the stage's motion: use a real camera or the virtual \
                           microscope, or set recorded_frames_may_move: true";

/// Listens to what the nodes say of themselves.
pub struct Recorded(Vec<watch::Receiver<bool>>);

impl Recorded {
    /// Listens to the nodes of these names, relative to the namespace of `node`; empty names are skipped. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses a name.
    pub fn new<'a>(node: &mut Builder, names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut heard = Vec::new();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let mut abouts = node.subscribe::<About>(&format!("{name}/about"), latched())?;
            let (sender, receiver) = watch::channel(false);
            tokio::spawn(async move {
                while let Some(about) = abouts.next().await {
                    sender.send_replace(about.capabilities.iter().any(|name| name == RECORDED_FRAMES));
                }
            });
            heard.push(receiver);
        }
        Ok(Self(heard))
    }

    /// Whether one of them says that its images are recorded.
    pub fn is_recorded(&self) -> bool {
        self.0.iter().any(|said| *said.borrow())
    }
}
