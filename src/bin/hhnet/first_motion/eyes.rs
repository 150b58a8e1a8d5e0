//! Pictures of what is under the lens, and what a network tells of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use hhnet::commissioning::course::Optics;
use hhnet::commissioning::sight::Sight;
use hhnet::drivers::image_files::{is_hidden, read_all};
#[cfg(feature = "onnx")]
use hhnet::drivers::onnx::OnnxNetwork;
#[cfg(feature = "onnx")]
use hhnet::estimate::classifier::{Classifier, ClassifierConfig};
#[cfg(feature = "onnx")]
use hhnet::estimate::network::Network as _;
use hhnet::frame::{CAMERA_HEIGHT, CAMERA_WIDTH, Frame};
use hhnet::objective::Objective;
use hhnet::units::Instant;

use super::virtual_stand::VirtualStand;
use super::{Arguments, shown};

/// How long a camera program is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether there is a picture, and how long one has to be unchanged.
const PAUSE: Duration = Duration::from_millis(300);

/// Where pictures come from, and what tells heights from them.
pub(super) struct Eyes {
    objective: Objective,
    has_pictures: bool,
    folder: Option<PathBuf>,
    #[cfg(feature = "onnx")]
    classifier: Option<Classifier<OnnxNetwork>>,
}

impl Eyes {
    /// # Errors
    /// An objective or a model that is named and cannot be used, a folder that is not there.
    pub(super) fn new(arguments: &Arguments) -> Result<Self> {
        let objective = Objective::by_name(&arguments.objective)?;
        let has_pictures = arguments.virtual_stand || arguments.frames.is_some();
        if let Some(folder) = &arguments.frames {
            newest(folder)?;
        }
        Ok(Self {
            #[cfg(feature = "onnx")]
            classifier: if has_pictures {
                classifier(arguments, &objective)?
            } else {
                None
            },
            objective,
            has_pictures,
            folder: arguments.frames.clone(),
        })
    }

    /// The camera, if there is one.
    pub(super) fn optics(&self) -> Option<Optics> {
        self.has_pictures
            .then(|| Optics::new(&self.objective, [CAMERA_WIDTH, CAMERA_HEIGHT]))
    }

    /// A picture of the stage as it stands; None if none came.
    ///
    /// # Errors
    /// A folder that cannot be read, a picture that is none.
    pub(super) fn look(&mut self, stand: Option<&mut VirtualStand>) -> Result<Option<Sight>> {
        let frame = match (stand, &self.folder) {
            (Some(stand), _) => Some(stand.frame()?),
            (None, Some(folder)) => next_frame(folder)?,
            (None, None) => None,
        };
        Ok(frame.map(|frame| Sight {
            defocus_um: self.defocus_um(&frame),
            frame: Arc::new(frame),
            pixel_um: self.objective.object_pixel_um(),
        }))
    }

    #[cfg(feature = "onnx")]
    fn defocus_um(&mut self, frame: &Frame) -> Option<f64> {
        let estimate = self.classifier.as_mut()?.classify(frame).ok()?;
        estimate.defocus.filter(|_| estimate.trusted).map(|um| um.0)
    }

    #[cfg(not(feature = "onnx"))]
    fn defocus_um(&mut self, _: &Frame) -> Option<f64> {
        None
    }
}

/// What tells heights, if there is such a thing here: without it the checks by the picture are not made, which the record says.
#[cfg(feature = "onnx")]
fn classifier(arguments: &Arguments, objective: &Objective) -> Result<Option<Classifier<OnnxNetwork>>> {
    let opened = OnnxNetwork::for_objective(arguments.model.as_deref(), &objective.name, 2, "--model");
    match opened {
        Ok(network) => {
            let config = ClassifierConfig::for_model(network.card());
            Ok(Some(Classifier::new(network, config)?))
        }
        Err(error) if arguments.model.is_some() => Err(error.into()),
        Err(error) => {
            crate::say(format_args!("no heights are told from pictures: {error}"));
            Ok(None)
        }
    }
}

/// The newest file of a folder that is not hidden, with when it was written and how large it is.
fn newest(folder: &Path) -> Result<Option<(SystemTime, u64, PathBuf)>> {
    let unreadable = || {
        format!(
            "cannot read the folder {}: name the one the camera program writes to",
            shown(folder)
        )
    };
    let mut found: Option<(SystemTime, u64, PathBuf)> = None;
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let Ok(metadata) = path.metadata() else { continue };
        let Ok(written) = metadata.modified() else {
            continue;
        };
        let is_newer = found.as_ref().is_none_or(|(newest, ..)| written > *newest);
        if metadata.is_file() && !is_hidden(&path) && is_newer {
            found = Some((written, metadata.len(), path));
        }
    }
    Ok(found)
}

/// The next picture that a camera program writes, whole; None if it writes none.
fn next_frame(folder: &Path) -> Result<Option<Frame>> {
    let (began, deadline) = (SystemTime::now(), std::time::Instant::now() + PATIENCE);
    crate::say(format_args!("... waiting for a new picture in {}", shown(folder)));
    let mut before = None;
    while std::time::Instant::now() < deadline {
        let found = newest(folder)?.filter(|(written, ..)| *written > began);
        if let Some((.., path)) = &found
            && found == before
        {
            let image = read_all(std::slice::from_ref(path))?.pop();
            let image = image.with_context(|| format!("{} holds no picture", shown(path)))?;
            let (width, height) = (image.width() as usize, image.height() as usize);
            return Ok(Some(Frame::new(
                width,
                height,
                image.into_raw(),
                Instant::default(),
                0,
            )?));
        }
        before = found;
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}
