//! `classifier`: one focus estimate for the newest frame; frames that arrive meanwhile are skipped, never queued.

mod judge;
mod outlets;
mod tally;

use std::path::Path;
use std::time::Instant as MonotonicInstant;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use r2r::QosProfile;
use r2r::hhnet::msg::{About, StageState};
use tokio::sync::watch;
use tokio::time::Interval;
use tokio_util::task::AbortOnDropHandle;

use self::judge::{Given, Judge};
use self::outlets::{Arrival, Outlets};
use self::tally::Tally;
use super::demand::{POLL, Taker};
use super::frames::{BadShot, FrameInput, Preview, Shot, ShotReceiver};
use super::microscope::MicroscopeParameters;
use super::stamps::StampSource;
use crate::classes::ClassEdges;
use crate::drivers::onnx::{Interrupt, OnnxNetwork};
use crate::estimate::classifier::{Classifier, ClassifierConfig, Judged};
use crate::estimate::network::{ModelCard, Network, NoNetwork};
use crate::frame::Frame;
use crate::objective::Objective;
use crate::pictures::preview::Picture;
use crate::ros::app::App;
use crate::ros::lifecycle::Wish;
use crate::ros::managed::{Base, Flow, Managed};
use crate::ros::node::{Builder, Newest, latched};
use crate::ros::params::Checked;
use crate::ros::presence::{capabilities, limits};
use crate::units::Instant;
use crate::{choices, parameters};

choices! {
    /// What frames are that equal the one before.
    IdenticalFrames {
        /// The sign of a camera that stands still.
        Distrust = "distrust",
        /// As good as others: the camera shows one picture, or a recorded stack.
        Allow = "allow",
    }
}

parameters! {
    /// Parameters of the classifier node.
    ClassifierParameters in "classifier" with microscope: MicroscopeParameters [objective, condenser_na, pixel_size, flat_field, calibration] {
        /// Path of the ONNX model; empty for the one that ships for the objective; `none` to measure what everything else costs:
        /// no frame is looked at, and no estimate trusted.
        model: String = "",
        /// Threads of one inference.
        threads: i64 [1.0..=64.0] = 2,
        /// Certainty of the image below which an estimate is not trusted.
        min_certainty: f64 [0.0..=1.0, live] = 0.5,
        /// Seed of the places of the four crops whose correlations are features 13 to 18.
        crop_seed: i64 [0.0..=9007199254740991.0, live] = 0,
        /// Whose time images carry: `message`, that of their stamp, or `arrival`, that at which they arrive from another process, for
        /// cameras without a clock. Arrival is a guess of the exposure that is late by exposure and transport: let the stage settle
        /// longer than these take.
        stamp: StampSource = StampSource::Message,
        /// What to do with a frame that is equal to the one before in every byte: `distrust`, because the camera is frozen, or `allow`
        /// for sources without noise, like recorded images.
        identical_frames: IdenticalFrames = IdenticalFrames::Distrust,
        /// Most pictures per second on `focus/overlay/compressed`.
        overlay_rate: f64 [0.1..=60.0, "1/s", live] = 5.0,
        /// Configure and activate the node at start, without waiting for `~/change_state`.
        autostart: bool = true,
    }
}

impl Checked for ClassifierParameters {
    fn check(&self) -> Result<()> {
        self.microscope.check()
    }
}

/// The model that is none.
const NO_MODEL: &str = "none";

/// A network of whichever kind the parameters ask for.
type AnyNetwork = Box<dyn Network + Send>;

impl ClassifierParameters {
    fn config(&self, card: &ModelCard) -> ClassifierConfig {
        ClassifierConfig {
            min_certainty: self.min_certainty as f32,
            crop_seed: self.crop_seed as u64,
            condenser_na: (self.microscope.condenser_na > 0.0).then_some(self.microscope.condenser_na),
            ..ClassifierConfig::for_model(card)
        }
    }

    /// Sides of a pixel across and down, in that of the model, of a camera with this binning.
    fn pixel_ratios(&self, binning: [u32; 2], card: &ModelCard) -> [f64; 2] {
        let unbinned = if self.microscope.pixel_size > 0.0 {
            1e6 * self.microscope.pixel_size / card.pixel_size_um
        } else {
            1.0
        };
        binning.map(|pixels| unbinned * f64::from(pixels))
    }
}

/// Everything the classifier reacts to.
enum Event {
    /// A shot, or what makes none; `None` when the camera has ended.
    Shot(Option<Result<Shot, BadShot>>),
    /// Where the lens is.
    Stage(StageState),
    /// Parameters have changed.
    Live,
    /// Another node may want estimates now.
    Demand,
}

/// Runs the node; `frames` are the camera's if it is in this process.
///
/// # Errors
/// A model that is missing or foreign, bad parameters.
pub async fn run(app: App, frames: Option<ShotReceiver>) -> Result<()> {
    let mut node = Builder::new("classifier")?;
    let mut live = node.parameters::<ClassifierParameters>(app.clock)?;
    let parameters = live.borrow_and_update().clone();
    let classifier = ClassifierNode {
        input: FrameInput::new(frames, &mut node, "image_raw")?.with_infos(&mut node, "camera_info")?,
        stages: node.subscribe("stage_state", QosProfile::default())?,
        outlets: Outlets {
            name: node.name().to_owned(),
            estimates: node.publisher("focus", QosProfile::default())?,
            flat_fields: node.publisher("focus/flat_field", latched())?,
            taker: Taker::new(&mut node, "focus")?,
            overlay: Preview::new(&mut node, "focus/overlay/compressed")?,
        },
        poll: tokio::time::interval(POLL),
        tally: Tally::default(),
        looks: false,
        app: app.clone(),
        live,
    };
    let base = Base::start(node, app, "network", "none", parameters.autostart)?;
    base.run(classifier).await
}

/// The node between its events.
struct ClassifierNode {
    app: App,
    live: watch::Receiver<ClassifierParameters>,
    input: FrameInput,
    stages: Newest<StageState>,
    outlets: Outlets,
    poll: Interval,
    tally: Tally,
    /// Whether estimates are wanted.
    looks: bool,
}

/// The model that is loaded.
struct Loaded {
    judge: Judge,
    card: ModelCard,
    active_since: Instant,
    /// Makes an inference that is under way end early when the process ends.
    _ending: AbortOnDropHandle<()>,
}

impl Managed for ClassifierNode {
    type Device = Loaded;
    type Event = Event;

    fn open(&mut self) -> BoxFuture<'static, Result<Loaded>> {
        let (parameters, app) = (self.live.borrow_and_update().clone(), self.app.clone());
        async move {
            // Loading takes up to seconds, which neither the other nodes nor the end of the process need to wait for.
            let opened = tokio::task::spawn_blocking(move || {
                let mut given = Given::default();
                let microscope = &parameters.microscope;
                given.flat.refresh(&microscope.flat_field, &microscope.objective);
                given
                    .calibration
                    .refresh(&microscope.calibration, &microscope.objective);
                open_classifier(&given.completed(&parameters)).map(|opened| (opened, given))
            });
            let ((classifier, interrupt), given) = opened.await.context("loading the model panicked")??;
            let ending = tokio::spawn(async move {
                app.stopped().await;
                // On a busy computer an inference takes longer than the process may take to end.
                if let Some(interrupt) = interrupt {
                    interrupt.fire();
                }
            });
            Ok(Loaded {
                card: classifier.network().card().clone(),
                judge: Judge::new(classifier, given),
                active_since: Instant::default(),
                _ending: AbortOnDropHandle::new(ending),
            })
        }
        .boxed()
    }

    fn handle_opened(&mut self, loaded: &mut Loaded, base: &mut Base) -> Result<()> {
        let card = &loaded.card;
        tracing::info!(node = base.name, "model {}, {}", card.model_id, card.objective);
        base.diagnostics.set_hardware_id(&card.model_id);
        introduce(&self.live.borrow(), card, base);
        self.outlets.tell_flat_field(&loaded.judge.given.flat);
        self.outlets.tell_calibration(&loaded.judge.given.calibration);
        Ok(())
    }

    async fn next_event(&mut self, _: &mut Loaded, is_active: bool) -> Event {
        self.looks = is_active && self.outlets.is_wanted();
        self.input.look(self.looks);
        tokio::select! {
            // The sender lives as long as the node.
            Ok(()) = self.live.changed() => Event::Live,
            // A new subscriber waits for the first estimate.
            () = self.outlets.taker.changed() => Event::Demand,
            _ = self.poll.tick() => Event::Demand,
            Some(stage) = self.stages.next(), if self.looks => Event::Stage(stage),
            shot = self.input.next(), if self.looks => Event::Shot(shot),
        }
    }

    async fn handle(&mut self, event: Event, loaded: &mut Loaded, base: &mut Base) -> Result<Flow> {
        match event {
            Event::Shot(Some(shot)) => self.handle_shot(shot, loaded, base).await,
            // The camera has ended, and says itself why.
            Event::Shot(None) => Ok(Flow::End),
            Event::Stage(stage) => {
                loaded.judge.handle_stage(&stage);
                Ok(Flow::Continue)
            }
            Event::Live => {
                loaded.take_over(&self.live.borrow())?;
                introduce(&self.live.borrow(), &loaded.card, base);
                Ok(Flow::Continue)
            }
            Event::Demand => Ok(Flow::Continue),
        }
    }

    fn handle_switch(&mut self, wish: Wish, loaded: &mut Loaded, base: &mut Base) {
        if base.is_active() {
            loaded.active_since = base.now();
            loaded.judge.frozen.reset();
            loaded.judge.following.reset();
        }
        base.switched(wish);
    }

    fn handle_second(&mut self, loaded: &mut Loaded, base: &mut Base) {
        self.look_at_flat_field(&mut loaded.judge);
        self.look_at_calibration(loaded);
        self.tally.flat_field = loaded.judge.given.flat.describe();
        self.tally.calibration = loaded.judge.given.calibration.describe();
        self.tally.left_out = loaded.judge.following.left_out();
        self.tally.report(base, self.looks);
        self.input.remind();
    }

    async fn close(&mut self, loaded: Loaded, _: &mut Base) {
        self.input.look(false);
        drop(loaded);
    }
}

impl ClassifierNode {
    /// Takes over a flat field whose file has been replaced, or another file.
    fn look_at_flat_field(&self, judge: &mut Judge) {
        let flat = &mut judge.given.flat;
        let microscope = self.live.borrow().microscope.clone();
        // Reading takes up to a second, which other tasks need not wait for.
        let is_news =
            tokio::task::block_in_place(|| flat.refresh(&microscope.flat_field, &microscope.objective));
        if is_news {
            judge.following.reset();
            self.outlets.tell_flat_field(&judge.given.flat);
        }
    }

    /// Takes over a calibration whose file has been replaced, or another file.
    fn look_at_calibration(&self, loaded: &mut Loaded) {
        let parameters = self.live.borrow();
        let (calibration, microscope) = (&mut loaded.judge.given.calibration, &parameters.microscope);
        if calibration.refresh(&microscope.calibration, &microscope.objective) {
            self.outlets.tell_calibration(calibration);
            // What a file may say was checked when it was read.
            if let Err(error) = loaded.take_over(&parameters) {
                tracing::error!(
                    node = self.outlets.name,
                    "the calibration is not in force: {error:#}"
                );
            }
        }
    }

    async fn handle_shot(
        &mut self,
        shot: Result<Shot, BadShot>,
        loaded: &mut Loaded,
        base: &mut Base,
    ) -> Result<Flow> {
        let received = MonotonicInstant::now();
        let arrival = Arrival::of(&self.input, base.now());
        let source = self.live.borrow().stamp;
        let admitted = self
            .outlets
            .admit(shot, &arrival, source, &mut self.tally, &loaded.card);
        let Some(mut shot) = admitted else {
            return Ok(Flow::Continue);
        };
        // Exposed before: it says nothing about now. It may have been on its way while the node was activated.
        if shot.frame.stamp < loaded.active_since {
            self.tally.outdated += 1;
            return Ok(Flow::Continue);
        }
        let binning = self.input.binning(&shot.frame).await;
        let parameters = loaded.judge.given.completed(&self.live.borrow());
        let ratios = parameters.pixel_ratios(binning, &loaded.card);
        let judged = tokio::task::block_in_place(|| loaded.judge.judge(&mut shot, ratios, &parameters));
        match judged {
            Ok((judged, doubt)) => {
                if self.live.has_changed().unwrap_or(false) {
                    // How sure an estimate has to be is decided now, not when the frame came.
                    loaded.take_over(&self.live.borrow())?;
                }
                let estimate = loaded.judge.estimate(&judged, doubt);
                let left_out = loaded.judge.following.left_out();
                self.tally.frames.handle_frame(&shot.frame, base.now());
                let (tally, card) = (&mut self.tally, &loaded.card);
                self.outlets
                    .publish(&shot, &estimate, left_out, received.elapsed(), tally, card);
                let rate = self.live.borrow().overlay_rate;
                self.outlets
                    .overlay
                    .show(&shot, rate, |frame| overlay(frame, &judged));
                loaded.judge.given.flat.take_back(shot.frame);
            }
            Err(_) if base.app.is_stopping() => return Ok(Flow::End),
            Err(error) => {
                let of = arrival.stamped(shot.frame.stamp, &shot.frame_id);
                self.outlets
                    .refuse(format!("{error:#}"), of, &mut self.tally, &loaded.card);
            }
        }
        Ok(Flow::Continue)
    }
}

impl Loaded {
    /// The settings from the next estimate on; they were checked before they were accepted.
    fn take_over(&mut self, parameters: &ClassifierParameters) -> Result<()> {
        let config = self.judge.given.completed(parameters).config(&self.card);
        Ok(self.judge.classifier.set_config(config)?)
    }
}

/// The frame with what was said of its patches.
fn overlay(frame: &Frame, judged: &Judged) -> Picture {
    let mut picture = Picture::of(frame);
    for (origin, patch) in judged.origins.iter().zip(&judged.patches) {
        picture.mark(*origin, &patch.probabilities);
    }
    picture
}

/// Says what the node is, and what of its parameters the model cannot make use of.
fn introduce(parameters: &ClassifierParameters, card: &ModelCard, base: &mut Base) {
    base.presence.introduce(About {
        capabilities: capabilities(&["focus", "focus/overlay/compressed"]),
        limits: limits([
            ("min_certainty", parameters.min_certainty),
            ("pixel_size", card.pixel_size_um * 1e-6),
        ]),
        model: card.model_id.to_string(),
        ..About::default()
    });
    warn_if_unused(&base.name, parameters, card);
}

/// Says that the condenser was told to a model that cannot make use of it.
fn warn_if_unused(node: &str, parameters: &ClassifierParameters, card: &ModelCard) {
    if parameters.microscope.condenser_na > 0.0 && card.condenser.is_none() {
        let model = &card.model_id;
        tracing::warn!(
            node,
            "condenser_na is not used: {model} does not say how its heights depend on the condenser"
        );
    }
}

/// A classifier, and what makes an inference that is under way end early, if one can take long.
fn open_classifier(parameters: &ClassifierParameters) -> Result<(Classifier<AnyNetwork>, Option<Interrupt>)> {
    let (network, interrupt): (AnyNetwork, _) = if parameters.model == NO_MODEL {
        let objective = Objective::by_name(&parameters.microscope.objective)?;
        let edges = ClassEdges::for_objective(&objective);
        (
            Box::new(NoNetwork::new(&parameters.microscope.objective, edges)),
            None,
        )
    } else {
        let network = open_model(parameters)?;
        let interrupt = network.interrupt();
        (Box::new(network), Some(interrupt))
    };
    let config = parameters.config(network.card());
    Ok((Classifier::new(network, config)?, interrupt))
}

fn open_model(parameters: &ClassifierParameters) -> Result<OnnxNetwork> {
    let threads = usize::try_from(parameters.threads)
        .ok()
        .filter(|threads| (1..=64).contains(threads));
    let threads =
        threads.with_context(|| format!("classifier threads must be 1 to 64, not {}", parameters.threads))?;
    let named = Some(parameters.model.as_str()).filter(|model| !model.is_empty());
    let objective = &parameters.microscope.objective;
    Ok(OnnxNetwork::for_objective(
        named.map(Path::new),
        objective,
        threads,
        "classifier.model",
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_core() {
        let network = NoNetwork::new("40x0.65", ClassEdges::default());
        let given = ClassifierParameters::default().config(network.card());
        assert_eq!(given, ClassifierConfig::for_model(network.card()));
    }
}
