//! `classifier`: one focus estimate for the newest frame; frames that arrive meanwhile are skipped, never queued.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant as MonotonicInstant};

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use r2r::QosProfile;
use r2r::hhnet::msg::{About, FocusEstimate, StageState};
use r2r::std_msgs::msg::{Header, String as Text};
use tokio::sync::watch;
use tokio::time::Interval;
use tokio_util::task::AbortOnDropHandle;

use super::calibration::CalibrationInForce;
use super::demand::{POLL, Taker};
use super::flat_field::FlatFieldInForce;
use super::frames::{BadShot, FrameInput, FrameTally, Preview, Shot, ShotReceiver, to_text};
use super::microscope::MicroscopeParameters;
use super::stamps::{self, StampError, StampSource};
use crate::classes::ClassEdges;
use crate::drivers::onnx::{Interrupt, OnnxNetwork};
use crate::estimate::classifier::{Classifier, ClassifierConfig, Doubt, Estimate, Judged};
use crate::estimate::following::Following;
use crate::estimate::frozen::FrozenCamera;
use crate::estimate::network::{ModelCard, Network, NoNetwork};
use crate::estimate::resample::{ALIKE, MENDABLE, to_model_pixels};
use crate::frame::Frame;
use crate::objective::Objective;
use crate::pictures::preview::Picture;
use crate::ros::app::App;
use crate::ros::convert::{from_time, header};
use crate::ros::diagnostics::Severity;
use crate::ros::lifecycle::Wish;
use crate::ros::managed::{Base, Flow, Managed};
use crate::ros::node::{Builder, Newest, Publisher, latched};
use crate::ros::params::Checked;
use crate::ros::presence::{Work, capabilities, limits};
use crate::stage::heights::Heights;
use crate::statistics::median;
use crate::units::{Instant, StageHeight};
use crate::{choices, parameters};

/// The model that ships for an objective, below the package's share folder.
fn shipped_name(objective: &str) -> String {
    match objective {
        "40x0.65" => "models/hhnet_fast.onnx".to_owned(),
        other => format!("models/hhnet_fast_{other}.onnx"),
    }
}

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

/// The classifier, and what frames are compared with before it sees them.
struct Judge {
    classifier: Classifier<AnyNetwork>,
    frozen: FrozenCamera,
    given: Given,
    /// Heights of the stage, and the patches that were seen not to follow them.
    heights: Heights,
    following: Following,
}

/// What files say of the instrument.
#[derive(Default)]
struct Given {
    flat: FlatFieldInForce,
    calibration: CalibrationInForce,
}

impl Given {
    /// The parameters, completed by what was measured.
    fn completed(&self, parameters: &ClassifierParameters) -> ClassifierParameters {
        let mut completed = parameters.clone();
        self.calibration.complete(&mut completed.microscope);
        completed
    }
}

impl Judge {
    fn new(classifier: Classifier<AnyNetwork>, given: Given) -> Self {
        Self {
            classifier,
            frozen: FrozenCamera::default(),
            given,
            heights: Heights::default(),
            following: Following::default(),
        }
    }

    /// Judges a shot, whose frame is divided by the flat field and becomes one of the model's pixel size; what else there is to doubt about it.
    fn judge(
        &mut self,
        shot: &mut Shot,
        ratios: [f64; 2],
        parameters: &ClassifierParameters,
    ) -> Result<(Judged, Option<Doubt>)> {
        if !self.classifier.network().looks() {
            return Ok((self.classifier.judge(&shot.frame)?, None));
        }
        let mut doubt = None;
        if parameters.identical_frames == IdenticalFrames::Distrust {
            let apart = self.frozen.handle_frame(&shot.frame);
            doubt = apart.map(|apart| Doubt::Frozen {
                apart_s: apart.as_secs_f64(),
            });
        }
        if let Some(reason) = self.given.calibration.error() {
            bail!("{reason}");
        }
        shot.frame = self.given.flat.correct(&shot.frame)?;
        if let Some(&ratio) = ratios.iter().find(|ratio| !MENDABLE.contains(ratio)) {
            let model_um = self.classifier.network().card().pixel_size_um;
            let pixel_um = ratio * model_um;
            return Ok((Judged::default(), Some(Doubt::PixelSize { pixel_um, model_um })));
        }
        if !ratios.iter().all(|ratio| ALIKE.contains(ratio)) {
            shot.frame = Arc::new(to_model_pixels(&shot.frame, ratios)?);
        }
        let mut judged = self.classifier.judge(&shot.frame)?;
        let height = self.heights.at(shot.frame.stamp).map(StageHeight::from_um);
        let edges = &self.classifier.config().edges;
        self.following.handle_frame(height, &judged, edges);
        self.following.leave_out(&mut judged);
        Ok((judged, doubt))
    }

    fn handle_stage(&mut self, stage: &StageState) {
        let z_um = (stage.position_valid && stage.z.is_finite()).then_some(1e6 * stage.z);
        self.heights.handle_report(from_time(&stage.header.stamp), z_um);
    }

    /// The estimate that a judged frame makes.
    fn estimate(&self, judged: &Judged, doubt: Option<Doubt>) -> Estimate {
        match doubt {
            Some(doubt @ Doubt::PixelSize { .. }) => Estimate::unknown(doubt),
            Some(doubt) => match self.classifier.estimate(judged) {
                // Black, white and grey pictures may well be equal.
                known @ Estimate {
                    doubt: Some(Doubt::Dark { .. } | Doubt::Clipped { .. } | Doubt::Grey),
                    ..
                } => known,
                estimate => estimate.doubted(doubt),
            },
            None => self.classifier.estimate(judged),
        }
    }
}

/// Numbers for the diagnostics of one second.
#[derive(Default)]
struct Tally {
    frames: FrameTally,
    refused: u64,
    /// Of them, for their stamps.
    bad_stamps: u64,
    /// Stamps replaced by the time of arrival.
    restamped: u64,
    /// Exposed before the node was activated.
    outdated: u64,
    /// Judged, but not trusted, and why last.
    untrusted: u64,
    last_refusal: String,
    last_doubt: Option<Doubt>,
    /// What frames are divided by.
    flat_field: String,
    /// Patches that have no vote, because they were seen not to follow the lens.
    left_out: usize,
    /// What was measured of the instrument.
    calibration: String,
    decision_ms: Vec<f64>,
}

impl Tally {
    /// Counts an estimate; whether its doubt is of another kind than the one before.
    fn handle_estimate(&mut self, estimate: &Estimate) -> bool {
        let kind = |doubt: &Option<Doubt>| doubt.as_ref().map(std::mem::discriminant);
        self.untrusted += u64::from(!estimate.trusted);
        let is_news = kind(&self.last_doubt) != kind(&estimate.doubt);
        self.last_doubt = estimate.doubt;
        is_news
    }

    /// Bad stamps, replaced ones, outdated frames and untrusted estimates of this second.
    fn take_counts(&mut self) -> [u64; 4] {
        [
            &mut self.bad_stamps,
            &mut self.restamped,
            &mut self.outdated,
            &mut self.untrusted,
        ]
        .map(std::mem::take)
    }
}

/// How a frame came.
struct Arrival {
    at: Instant,
    /// Whether from another process, where clocks may differ.
    is_foreign: bool,
}

impl Arrival {
    /// Of the frame that the input gave last.
    fn of(input: &FrameInput, now: Instant) -> Self {
        let since = input.since_arrival();
        Self {
            at: now.before(since.unwrap_or_default()),
            is_foreign: since.is_some(),
        }
    }

    /// The stamp that counts, if it makes sense.
    fn stamp(&self, frame: Instant, source: StampSource) -> Result<Instant, StampError> {
        match (self.is_foreign, source) {
            // Frames of this process have its clock, however late they are.
            (false, _) => Ok(frame),
            (true, StampSource::Arrival) => Ok(self.at),
            (true, StampSource::Message) => stamps::check(frame, self.at).map(|()| frame),
        }
    }

    /// The header of what is said of a frame that cannot be judged: its stamp, or its arrival where that makes no sense.
    fn stamped(&self, frame: Instant, frame_id: &str) -> Header {
        header(
            self.stamp(frame, StampSource::Message).unwrap_or(self.at),
            frame_id,
        )
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
    let path = if parameters.model.is_empty() {
        shipped_model(&parameters.microscope.objective)?
    } else {
        PathBuf::from(&parameters.model)
    };
    let threads = usize::try_from(parameters.threads)
        .ok()
        .filter(|threads| (1..=64).contains(threads));
    let threads =
        threads.with_context(|| format!("classifier threads must be 1 to 64, not {}", parameters.threads))?;
    let network = if parameters.model.is_empty() {
        OnnxNetwork::open_shipped(&path, threads)?
    } else {
        OnnxNetwork::open(&path, threads)?
    };
    let trained_for = &network.card().objective;
    if *trained_for != parameters.microscope.objective {
        bail!(
            "model {} is for objective {trained_for}, not {}: set classifier.model to one trained for it (make train)",
            path.display(),
            parameters.microscope.objective
        );
    }
    Ok(network)
}

/// The shipped model, from the installed package or the working directory.
pub(super) fn shipped_model(objective: &str) -> Result<PathBuf> {
    let name = shipped_name(objective);
    let prefixes = std::env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
    let installed = std::env::split_paths(&prefixes).map(|prefix| prefix.join("share/hhnet").join(&name));
    installed.chain([PathBuf::from(&name)]).find(|path| path.exists()).with_context(|| {
        format!("no model for objective {objective} is installed ({name}): build the package, or set classifier.model to one that `make train` made")
    })
}

fn to_message(estimate: &Estimate, decision: Duration, model_id: &Arc<str>) -> FocusEstimate {
    FocusEstimate {
        distance_index: estimate.index.value(),
        certainty: estimate.certainty,
        probabilities: estimate.probabilities.to_vec(),
        defocus: estimate.defocus.map_or(f64::NAN, |defocus| defocus.as_metres()),
        defocus_stddev: estimate
            .defocus_stddev
            .map_or(f64::NAN, |stddev| stddev.as_metres()),
        sharpness: estimate.sharpness.unwrap_or(f64::NAN),
        patches_used: estimate.patches_used as u16,
        trusted: estimate.trusted,
        reason: estimate.doubt.map_or_else(String::new, |doubt| doubt.to_string()),
        decision_time: decision.as_secs_f64(),
        model_id: model_id.to_string(),
        ..FocusEstimate::default()
    }
}

struct Outlets {
    /// The node's, for log lines.
    name: String,
    estimates: Publisher<FocusEstimate>,
    /// When the flat field in force was made.
    flat_fields: Publisher<Text>,
    /// The focus controller.
    taker: Taker,
    overlay: Preview,
}

impl Outlets {
    /// Says by what frames are divided from now on.
    fn tell_calibration(&self, calibration: &CalibrationInForce) {
        match calibration.error() {
            Some(reason) => tracing::error!(node = self.name, "{reason}"),
            None => tracing::info!(node = self.name, "calibration: {}", calibration.describe()),
        }
    }

    fn tell_flat_field(&self, flat: &FlatFieldInForce) {
        tracing::info!(node = self.name, "flat field: {}", flat.describe());
        self.flat_fields.publish(&Text {
            data: flat.made().to_owned(),
        });
    }

    /// Whether anything takes estimates or pictures of them.
    fn is_wanted(&self) -> bool {
        let subscriptions = self.estimates.subscriptions();
        self.taker.is_wanted(subscriptions) || self.overlay.is_wanted()
    }

    /// The shot with the stamp that counts; one that cannot be judged is refused.
    fn admit(
        &self,
        shot: Result<Shot, BadShot>,
        arrival: &Arrival,
        source: StampSource,
        tally: &mut Tally,
        card: &ModelCard,
    ) -> Option<Shot> {
        let mut shot = match shot {
            Ok(shot) => shot,
            Err(bad) => {
                let of = arrival.stamped(bad.stamp, &bad.frame_id);
                self.refuse(bad.to_string(), of, tally, card);
                return None;
            }
        };
        match arrival.stamp(shot.frame.stamp, source) {
            Ok(stamp) if stamp == shot.frame.stamp => (),
            Ok(stamp) => {
                tally.restamped += 1;
                Arc::make_mut(&mut shot.frame).stamp = stamp;
            }
            Err(error) => {
                tally.bad_stamps += 1;
                let of = arrival.stamped(shot.frame.stamp, &shot.frame_id);
                self.refuse(error.to_string(), of, tally, card);
                return None;
            }
        }
        Some(shot)
    }

    /// Counts and tells a frame that cannot be judged, in the log and to the subscribers of estimates.
    fn refuse(&self, reason: String, header: Header, tally: &mut Tally, card: &ModelCard) {
        tracing::warn!(node = self.name, "frame refused: {reason}");
        let estimate = FocusEstimate {
            header,
            reason: reason.clone(),
            ..to_message(&Estimate::UNKNOWN, Duration::ZERO, &card.model_id)
        };
        tally.refused += 1;
        tally.last_refusal = reason;
        self.estimates.publish(&estimate);
    }

    /// Counts and publishes an estimate; what is wrong with the camera is told once.
    fn publish(
        &self,
        shot: &Shot,
        estimate: &Estimate,
        left_out: usize,
        decision: Duration,
        tally: &mut Tally,
        card: &ModelCard,
    ) {
        tally.decision_ms.push(1e3 * decision.as_secs_f64());
        if tally.handle_estimate(estimate)
            && let Some(doubt) = estimate.doubt.filter(Doubt::is_about_camera)
        {
            tracing::warn!(node = self.name, "frames are not trusted: {doubt}");
        }
        let message = FocusEstimate {
            header: header(shot.frame.stamp, &shot.frame_id),
            patches_left_out: left_out as u16,
            ..to_message(estimate, decision, &card.model_id)
        };
        self.estimates.publish(&message);
    }
}

impl Tally {
    /// Publishes the second that is over, and begins the next.
    fn report(&mut self, base: &mut Base, looks: bool) {
        let refusal = std::mem::take(&mut self.last_refusal);
        let refused = std::mem::take(&mut self.refused);
        let decision_ms = std::mem::take(&mut self.decision_ms);
        let [bad_stamps, restamped, outdated, untrusted] = self.take_counts().map(|count| count.to_string());
        let doubt = self
            .last_doubt
            .map_or_else(String::new, |doubt| doubt.to_string());
        let is_about_camera = self.last_doubt.is_some_and(|doubt| doubt.is_about_camera());
        let (severity, message) = match (self.frames.frames(), refused) {
            _ if !base.is_active() => (Severity::Warn, "not active"),
            _ if !looks => (Severity::Ok, "nothing takes estimates"),
            (0, 0) => (Severity::Warn, "no frame in the last second"),
            (_, 0) if is_about_camera => (Severity::Error, doubt.as_str()),
            (_, 0) => (Severity::Ok, "judging frames"),
            (_, _) => (Severity::Error, refusal.as_str()),
        };
        if !looks {
            self.frames.pause();
        }
        let slowest = decision_ms.iter().copied().max_by(f64::total_cmp);
        let [rate, drops, age, oldest] = self.frames.values();
        let values = [
            rate,
            drops,
            age,
            oldest,
            ("refused_per_second", refused.to_string()),
            ("bad_stamps_per_second", bad_stamps),
            ("stamps_replaced_per_second", restamped),
            ("outdated_per_second", outdated),
            ("untrusted_per_second", untrusted),
            ("last_doubt", doubt.clone()),
            ("flat_field", self.flat_field.clone()),
            ("patches_that_do_not_follow", self.left_out.to_string()),
            ("calibration", self.calibration.clone()),
            ("decision_ms_median", to_text(median(decision_ms))),
            ("decision_ms_most", to_text(slowest)),
        ];
        let work = match severity {
            Severity::Ok if looks => Work::Busy(message.into()),
            Severity::Ok | Severity::Warn => Work::Idle(message.into()),
            Severity::Error => Work::Fault(message.into()),
        };
        base.report(severity, message, &values, work);
    }
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
