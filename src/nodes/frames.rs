//! How frames travel between nodes: shared memory inside a process, image messages between processes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use r2r::sensor_msgs::msg::{CameraInfo, CompressedImage, Image};
use tokio::sync::watch;

use super::demand::{By, Demand, Taker};
use crate::encoding::{Depth, ImageError};
use crate::frame::Frame;
use crate::pictures::jpeg::{self, Chroma};
use crate::pictures::preview::Picture;
use crate::ros::convert::{from_image, from_time, header, to_image};
use crate::ros::node::{Builder, Newest, Publisher, newest_reliable};
use crate::statistics::median;
use crate::units::Instant;

/// Quality of the pictures that people watch, 1 to 100.
const PREVIEW_QUALITY: u8 = 80;

/// How long the info of the first image of a size may come behind it.
const INFO_LIMIT: Duration = Duration::from_millis(100);

/// A frame and the optical frame of the camera that took it.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The image.
    pub frame: Arc<Frame>,
    /// `frame_id` of its header.
    pub frame_id: Arc<str>,
}

/// The sending end of a hand-over inside a process: the newest shot, without copying.
pub struct ShotSender {
    shots: watch::Sender<Option<Shot>>,
    is_wanted: watch::Receiver<bool>,
}

/// The receiving end of a hand-over.
pub struct ShotReceiver {
    shots: watch::Receiver<Option<Shot>>,
    is_wanted: watch::Sender<bool>,
}

/// A hand-over from one node to another.
pub fn hand_over() -> (ShotSender, ShotReceiver) {
    let (to, shots) = watch::channel(None);
    let (wanted, is_wanted) = watch::channel(false);
    let sender = ShotSender { shots: to, is_wanted };
    let receiver = ShotReceiver {
        shots,
        is_wanted: wanted,
    };
    (sender, receiver)
}

/// An image that makes no frame.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BadShot {
    /// The stamp of its header.
    pub stamp: Instant,
    /// The `frame_id` of its header.
    pub frame_id: Arc<str>,
    /// What is wrong.
    pub reason: ImageError,
}

/// Where a node takes its frames from.
pub enum FrameInput {
    /// A node in the same process.
    Shared(ShotReceiver),
    /// An image topic.
    Topic(Box<ImageTopic>),
}

/// Images of another process.
pub struct ImageTopic {
    images: Newest<Image>,
    demand: Demand,
    /// Who says what it wants.
    taker: By,
    /// How many came.
    received: u64,
    depth: Depth,
    infos: Option<CameraInfos>,
}

/// What a camera says of its images.
struct CameraInfos {
    infos: Newest<CameraInfo>,
    demand: Demand,
    newest: Option<CameraInfo>,
    /// Size of the image before.
    size: (usize, usize),
}

impl CameraInfos {
    /// Pixels of the sensor in one of this frame. An info belongs to the image of the same stamp, and one of them comes first: a frame
    /// of a new size waits a moment for it.
    async fn binning(&mut self, frame: &Frame) -> [u32; 2] {
        while let Some(Some(info)) = self.infos.next().now_or_never() {
            self.newest = Some(info);
        }
        let size = (frame.width(), frame.height());
        if std::mem::replace(&mut self.size, size) != size {
            // A driver that sends none is no error.
            tokio::time::timeout(INFO_LIMIT, self.info_of(frame)).await.ok();
        }
        let of = |info: &CameraInfo| [info.binning_x, info.binning_y].map(|binning| binning.max(1));
        self.newest.as_ref().map_or([1; 2], of)
    }

    async fn info_of(&mut self, frame: &Frame) {
        let is_older = |info: &CameraInfo| from_time(&info.header.stamp) < frame.stamp;
        while self.newest.as_ref().is_none_or(is_older) {
            match self.infos.next().await {
                Some(info) => self.newest = Some(info),
                None => return,
            }
        }
    }
}

impl FrameInput {
    /// From the same process if it offers frames, else from `topic`. It rests until [`Self::look`].
    ///
    /// # Errors
    /// If the topic cannot be subscribed.
    pub fn new(shared: Option<ShotReceiver>, node: &mut Builder, topic: &str) -> Result<Self> {
        Self::by(By::Loop, shared, node, topic)
    }

    /// The same, for a node that has a word of its own to say that it rests.
    ///
    /// # Errors
    /// If the topic cannot be subscribed.
    pub fn by(taker: By, shared: Option<ShotReceiver>, node: &mut Builder, topic: &str) -> Result<Self> {
        Ok(match shared {
            Some(receiver) => Self::Shared(receiver),
            None => {
                let images = node.subscribe(topic, newest_reliable())?;
                Self::Topic(Box::new(ImageTopic {
                    images,
                    demand: Demand::by(taker, node, topic)?,
                    taker,
                    received: 0,
                    depth: Depth::default(),
                    infos: None,
                }))
            }
        })
    }

    /// The same, with what the camera says of its images on `infos`.
    ///
    /// # Errors
    /// If the topic cannot be subscribed.
    pub fn with_infos(mut self, node: &mut Builder, infos: &str) -> Result<Self> {
        if let Self::Topic(topic) = &mut self {
            topic.infos = Some(CameraInfos {
                infos: node.subscribe(infos, newest_reliable())?,
                demand: Demand::by(topic.taker, node, infos)?,
                newest: None,
                size: (0, 0),
            });
        }
        Ok(self)
    }

    /// Pixels of the sensor in one of this frame, across and down, as far as the camera says; call once for each.
    pub async fn binning(&mut self, frame: &Frame) -> [u32; 2] {
        match self {
            Self::Topic(topic) => match &mut topic.infos {
                Some(infos) => infos.binning(frame).await,
                None => [1; 2],
            },
            Self::Shared(_) => [1; 2],
        }
    }

    /// How long ago the last image arrived, if it came from another process.
    pub fn since_arrival(&self) -> Option<Duration> {
        match self {
            Self::Topic(topic) => topic.images.arrived().map(|at| at.elapsed()),
            Self::Shared(_) => None,
        }
    }

    /// Tells the source whether frames are wanted. What it sent before that is old, and forgotten.
    pub fn look(&mut self, is_wanted: bool) {
        match self {
            Self::Shared(from) => {
                let is_news = from
                    .is_wanted
                    .send_if_modified(|told| std::mem::replace(told, is_wanted) != is_wanted);
                if is_news && is_wanted {
                    from.shots.mark_unchanged();
                }
            }
            Self::Topic(topic) => {
                if topic.demand.set(is_wanted) && is_wanted {
                    topic.images.forget();
                }
                if let Some(infos) = &mut topic.infos {
                    infos.demand.set(is_wanted);
                }
            }
        }
    }

    /// Whether the source, in the same process, is gone.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Shared(from) if from.shots.has_changed().is_err())
    }

    /// Keeps the source informed; call once a second.
    pub fn remind(&self) {
        if let Self::Topic(topic) = self {
            topic.demand.repeat();
            if let Some(infos) = &topic.infos {
                infos.demand.repeat();
            }
        }
    }

    /// The newest shot not yet seen; `None` when the source has ended.
    ///
    /// # Errors
    /// If an image message is not a usable frame.
    pub async fn next(&mut self) -> Option<Result<Shot, BadShot>> {
        match self {
            Self::Shared(from) => {
                from.shots.changed().await.ok()?;
                from.shots.borrow_and_update().clone().map(Ok)
            }
            Self::Topic(topic) => topic.next().await,
        }
    }
}

impl ImageTopic {
    async fn next(&mut self) -> Option<Result<Shot, BadShot>> {
        let image = self.images.next().await?;
        self.received += 1;
        let frame_id: Arc<str> = image.header.frame_id.as_str().into();
        let stamp = from_time(&image.header.stamp);
        // Images that were overtaken count: they leave a gap.
        let sequence = self.received + self.images.overtaken();
        // Some encodings take milliseconds, which other tasks need not wait for.
        let frame = tokio::task::block_in_place(|| from_image(image, sequence, &mut self.depth));
        Some(match frame {
            Ok(frame) => Ok(Shot {
                frame: Arc::new(frame),
                frame_id,
            }),
            Err(reason) => Err(BadShot {
                stamp,
                frame_id,
                reason,
            }),
        })
    }
}

/// Where a node's frames go: to a node of the same process, and to a topic while another process subscribes to it, because a full frame
/// costs a copy of 9.4 MB.
pub struct FrameOutlet {
    images: Publisher<Image>,
    /// The nodes that take the topic, where none of the same process takes the frames.
    taker: Option<Taker>,
    shared: Vec<ShotSender>,
}

impl FrameOutlet {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses the topic.
    pub fn new(shared: Vec<ShotSender>, node: &mut Builder, topic: &str) -> Result<Self> {
        Ok(Self {
            images: node.publisher(topic, newest_reliable())?,
            taker: match shared.is_empty() {
                false => None,
                true => Some(Taker::new(node, topic)?),
            },
            shared,
        })
    }

    /// Whether anything takes frames.
    pub fn is_wanted(&self) -> bool {
        self.shared.iter().any(|to| *to.is_wanted.borrow()) || self.is_published()
    }

    fn is_published(&self) -> bool {
        let subscriptions = self.images.subscriptions();
        match &self.taker {
            Some(taker) => taker.is_wanted(subscriptions),
            None => subscriptions > 0,
        }
    }

    /// Waits for a node of the graph to begin to take frames, or to end.
    pub async fn demanded(&mut self) {
        let changes: Vec<_> = self
            .shared
            .iter_mut()
            .map(|to| Box::pin(to.is_wanted.changed()))
            .collect();
        let has_ended = match &mut self.taker {
            Some(taker) => {
                taker.changed().await;
                false
            }
            None if changes.is_empty() => true,
            None => futures::future::select_all(changes).await.0.is_err(),
        };
        if has_ended {
            std::future::pending::<()>().await;
        }
    }

    /// Hands a shot over, and publishes it where it is wanted.
    pub fn send(&self, shot: &Shot) {
        for to in &self.shared {
            to.shots.send_replace(Some(shot.clone()));
        }
        if self.is_published() {
            // The copy takes milliseconds, which other tasks need not wait for.
            tokio::task::block_in_place(|| self.images.publish(&to_image(&shot.frame, &shot.frame_id)));
        }
    }
}

/// What happened to frames in one second, for the diagnostics.
#[derive(Debug, Default)]
pub struct FrameTally {
    frames: u64,
    dropped: u64,
    ages_ms: Vec<f64>,
    sequence: Option<u64>,
}

impl FrameTally {
    /// Counts a frame that is done with at `now`.
    pub fn handle_frame(&mut self, frame: &Frame, now: Instant) {
        let expected = self.sequence.map_or(frame.sequence, |before| before + 1);
        self.dropped += frame.sequence.saturating_sub(expected);
        self.sequence = Some(frame.sequence);
        self.frames += 1;
        self.ages_ms.push(1e3 * now.since(frame.stamp).as_secs_f64());
    }

    /// Frames of this second.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// No gap counts before the next frame: the source rested.
    pub fn pause(&mut self) {
        self.sequence = None;
    }

    /// Rate, drops (gaps in the sequence) and age from the middle of the exposure on; begins the next second.
    pub fn values(&mut self) -> [(&'static str, String); 4] {
        let ages_ms = std::mem::take(&mut self.ages_ms);
        let oldest = ages_ms.iter().copied().max_by(f64::total_cmp);
        [
            ("frames_per_second", std::mem::take(&mut self.frames).to_string()),
            (
                "dropped_per_second",
                std::mem::take(&mut self.dropped).to_string(),
            ),
            ("frame_age_ms_median", to_text(median(ages_ms))),
            ("frame_age_ms_most", to_text(oldest)),
        ]
    }
}

/// Milliseconds as diagnostics show them; of nothing measured, `none`.
pub fn to_text(ms: Option<f64>) -> String {
    ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms:.1}"))
}

/// Small pictures for people: as often as they can be watched, and only while something subscribes to them.
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

    /// Whether anything watches.
    pub fn is_wanted(&self) -> bool {
        self.publisher.subscriptions() > 0
    }

    /// Publishes what `draw` makes of a shot, at most `rate` times a second.
    pub fn show(&mut self, shot: &Shot, rate: f64, draw: impl FnOnce(&Frame) -> Picture) {
        let is_due = shot.frame.stamp.since(self.shown).as_secs_f64() * rate >= 1.0;
        if !is_due || !self.is_wanted() {
            return;
        }
        self.shown = shot.frame.stamp;
        // Drawing and encoding take milliseconds that other tasks need not wait for.
        let encoded = tokio::task::block_in_place(|| {
            let Picture(image) = draw(&shot.frame);
            let size = (image.width() as usize, image.height() as usize);
            jpeg::encode(&image, size, PREVIEW_QUALITY, Chroma::Halved)
        });
        // It fails for a picture without pixels alone, of which there is nothing to see.
        let Ok(data) = encoded else { return };
        self.publisher.publish(&CompressedImage {
            header: header(shot.frame.stamp, &shot.frame_id),
            format: "rgb8; jpeg compressed bgr8".to_owned(),
            data,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u64, stamp_ms: u64) -> Frame {
        let stamp = Instant::from_nanos(stamp_ms * 1_000_000);
        Frame::new(1, 1, vec![0; 3], stamp, sequence).unwrap()
    }

    #[test]
    fn gaps_in_the_sequence_are_drops() {
        let mut tally = FrameTally::default();
        let now = Instant::from_nanos(50_000_000);
        for (sequence, stamp_ms) in [(7, 10), (8, 20), (11, 40)] {
            tally.handle_frame(&frame(sequence, stamp_ms), now);
        }
        let values = tally.values().map(|(_, value)| value);
        assert_eq!(values, ["3", "2", "30.0", "40.0"]);
        // The next second begins where this one ended, unless the source rested.
        tally.handle_frame(&frame(13, 40), now);
        assert_eq!(tally.values()[1].1, "1");
        tally.pause();
        tally.handle_frame(&frame(99, 40), now);
        assert_eq!(tally.values()[1].1, "0");
    }

    #[tokio::test]
    async fn a_hand_over_carries_demand_back_and_forgets_what_nobody_looked_at() {
        let (sender, receiver) = hand_over();
        let mut input = FrameInput::Shared(receiver);
        assert!(!*sender.is_wanted.borrow());
        let shot = |sequence| Shot {
            frame: Arc::new(frame(sequence, 0)),
            frame_id: "camera".into(),
        };
        sender.shots.send_replace(Some(shot(1)));
        input.look(true);
        assert!(*sender.is_wanted.borrow());
        sender.shots.send_replace(Some(shot(2)));
        assert_eq!(input.next().await.unwrap().unwrap().frame.sequence, 2);
        assert!(!input.has_ended());
        drop(sender);
        assert!(input.has_ended() && input.next().await.is_none());
    }
}
