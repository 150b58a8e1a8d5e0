//! How frames travel between nodes: shared memory inside a process, image messages between processes.

use std::sync::Arc;

use anyhow::Result;
use r2r::Publisher;
use r2r::sensor_msgs::msg::{CompressedImage, Image};
use tokio::sync::watch;

use crate::frame::Frame;
use crate::jpeg::{self, Chroma};
use crate::preview::Picture;
use crate::ros::convert::{from_image, header, to_image};
use crate::ros::node::{Builder, Newest, newest_reliable};
use crate::units::Instant;

/// Quality of the pictures that people watch, 1 to 100.
const PREVIEW_QUALITY: u8 = 80;

/// A frame and the optical frame of the camera that took it.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The image.
    pub frame: Arc<Frame>,
    /// `frame_id` of its header.
    pub frame_id: Arc<str>,
}

/// The newest shot, handed over without copying.
pub type ShotSender = watch::Sender<Option<Shot>>;

/// The receiving end of a [`ShotSender`].
pub type ShotReceiver = watch::Receiver<Option<Shot>>;

/// Where a node takes its frames from.
pub enum FrameInput {
    /// A node in the same process.
    Shared(ShotReceiver),
    /// An image topic.
    Topic(Newest<Image>, u64),
}

impl FrameInput {
    /// From the same process if it offers frames, else from `topic`.
    ///
    /// # Errors
    /// If the topic cannot be subscribed.
    pub fn new(shared: Option<ShotReceiver>, node: &mut Builder, topic: &str) -> Result<Self> {
        Ok(match shared {
            Some(receiver) => Self::Shared(receiver),
            None => Self::Topic(node.subscribe(topic, newest_reliable())?, 0),
        })
    }

    /// Drops what has arrived and was not asked for: whoever begins to look must not see what was there before.
    pub fn forget(&mut self) {
        match self {
            Self::Shared(receiver) => receiver.mark_unchanged(),
            Self::Topic(images, _) => images.forget(),
        }
    }

    /// The newest shot not yet seen; `None` when the source has ended.
    ///
    /// # Errors
    /// If an image message is not a usable frame.
    pub async fn next(&mut self) -> Option<Result<Shot>> {
        match self {
            Self::Shared(receiver) => {
                receiver.changed().await.ok()?;
                receiver.borrow_and_update().clone().map(Ok)
            }
            Self::Topic(images, sequence) => {
                let image = images.next().await?;
                *sequence += 1;
                let frame_id: Arc<str> = image.header.frame_id.as_str().into();
                Some(from_image(image, *sequence).map(|frame| Shot {
                    frame: Arc::new(frame),
                    frame_id,
                }))
            }
        }
    }
}

/// Publishes a shot if anybody outside listens: a full frame costs a copy of 9.4 MB, which other tasks need not wait for.
pub fn publish_if_wanted(publisher: &Publisher<Image>, shot: &Shot) -> bool {
    let wanted = publisher.get_inter_process_subscription_count().unwrap_or(0) > 0;
    if wanted {
        // Publishing fails only while the process ends.
        tokio::task::block_in_place(|| drop(publisher.publish(&to_image(&shot.frame, &shot.frame_id))));
    }
    wanted
}

/// Small pictures for people: as often as they can be watched, and only while somebody does.
pub struct Preview {
    publisher: Publisher<CompressedImage>,
    shown: Instant,
}

impl Preview {
    /// JPEGs on `topic`.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn new(node: &mut Builder, topic: &str) -> Result<Self> {
        Ok(Self {
            publisher: node.publisher(topic, newest_reliable())?,
            shown: Instant::default(),
        })
    }

    /// Publishes what `draw` makes of a shot, at most `rate` times a second.
    pub fn show(&mut self, shot: &Shot, rate: f64, draw: impl FnOnce(&Frame) -> Picture) {
        let is_due = shot.frame.stamp.since(self.shown).as_secs_f64() * rate >= 1.0;
        if !is_due || self.publisher.get_inter_process_subscription_count().unwrap_or(0) == 0 {
            return;
        }
        self.shown = shot.frame.stamp;
        // Drawing and encoding take milliseconds that other tasks need not wait for.
        let encoded = tokio::task::block_in_place(|| {
            let picture = draw(&shot.frame);
            let size = (picture.width, picture.height);
            jpeg::encode(&picture.rgb, size, PREVIEW_QUALITY, Chroma::Halved)
        });
        // It fails for a picture without pixels alone, of which there is nothing to see.
        let Ok(data) = encoded else { return };
        // Publishing fails only while the process ends.
        drop(self.publisher.publish(&CompressedImage {
            header: header(shot.frame.stamp, &shot.frame_id),
            format: "rgb8; jpeg compressed bgr8".to_owned(),
            data,
        }));
    }
}
