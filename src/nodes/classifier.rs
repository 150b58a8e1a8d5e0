//! `classifier`: one focus estimate for the newest frame; frames that arrive meanwhile are skipped, never queued.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant as MonotonicInstant};

use anyhow::{Context as _, Result, bail};
use r2r::hhnet::msg::{About, FocusEstimate};
use r2r::std_msgs::msg::Header;
use r2r::{Publisher, QosProfile};

use super::demand::{POLL, Taker};
use super::frames::{BadShot, FrameInput, FrameTally, Preview, Shot, ShotReceiver, to_text};
use super::microscope::MicroscopeParameters;
use super::stamps::{self, StampError, StampSource};
use crate::classes::ClassEdges;
use crate::drivers::onnx::{Interrupt, OnnxNetwork};
use crate::estimate::classifier::{Classifier, ClassifierConfig, Doubt, Estimate, Judged};
use crate::estimate::frozen::FrozenCamera;
use crate::estimate::network::{ModelCard, Network, NoNetwork};
use crate::estimate::resample::{ALIKE, MENDABLE, to_model_pixels};
use crate::objective::Objective;
use crate::pictures::preview::Picture;
use crate::ros::app::App;
use crate::ros::convert::header;
use crate::ros::diagnostics::{Diagnostics, Severity};
use crate::ros::lifecycle::{Change, Lifecycle};
use crate::ros::node::Builder;
use crate::ros::params::Checked;
use crate::ros::presence::{Presence, Work, capabilities, limits};
use crate::statistics::median;
use crate::units::Instant;
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
    ClassifierParameters in "classifier" with microscope: MicroscopeParameters [objective, condenser_na, pixel_size] {
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
}

impl Judge {
    fn new(classifier: Classifier<AnyNetwork>) -> Self {
        Self {
            classifier,
            frozen: FrozenCamera::default(),
        }
    }

    /// Judges a shot, whose frame becomes one of the model's pixel size; what else there is to doubt about it.
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
        if let Some(&ratio) = ratios.iter().find(|ratio| !MENDABLE.contains(ratio)) {
            let model_um = self.classifier.network().card().pixel_size_um;
            let pixel_um = ratio * model_um;
            return Ok((Judged::default(), Some(Doubt::PixelSize { pixel_um, model_um })));
        }
        if !ratios.iter().all(|ratio| ALIKE.contains(ratio)) {
            shot.frame = Arc::new(to_model_pixels(&shot.frame, ratios)?);
        }
        Ok((self.classifier.judge(&shot.frame)?, doubt))
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

/// Runs the node; `frames` are the camera's if it is in this process.
///
/// # Errors
/// A model that is missing or foreign, bad parameters.
pub async fn run(app: App, frames: Option<ShotReceiver>) -> Result<()> {
    let mut node = Builder::new("classifier")?;
    let mut live = node.parameters::<ClassifierParameters>(app.clock)?;
    let parameters = live.borrow_and_update().clone();
    let mut input = FrameInput::new(frames, &mut node, "image_raw")?.with_infos(&mut node, "camera_info")?;
    let stamp_source = parameters.stamp;
    let mut outlets = Outlets {
        name: node.name().to_owned(),
        estimates: node.publisher("focus", QosProfile::default())?,
        taker: Taker::new(&mut node, "focus")?,
        overlay: Preview::new(&mut node, "focus/overlay/compressed")?,
        diagnostics: Diagnostics::new(&mut node, "network", "none")?,
        presence: Presence::new(&mut node, app.clock)?,
    };
    let mut lifecycle = Lifecycle::new(&mut node, &app, parameters.autostart)?;
    let name = node.name().to_owned();
    let spinning = node.spin()?;
    outlets.presence.set(Work::inactive());

    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut poll = tokio::time::interval(POLL);
    let mut tally = Tally::default();
    while let Some(wish) = lifecycle.configure(&app, &mut outlets.diagnostics).await {
        // Loading takes up to seconds, which neither the other nodes nor the end of the process need to wait for.
        let wanted = live.borrow_and_update().clone();
        let opened = tokio::select! {
            () = app.stopped() => break,
            opened = tokio::task::spawn_blocking(move || open_classifier(&wanted)) => opened,
        };
        let opened = opened.context("loading the model panicked")?;
        let Some((classifier, interrupt)) = wish.settle(opened)? else {
            continue;
        };
        let card = classifier.network().card().clone();
        let mut judge = Judge::new(classifier);
        // On a busy computer an inference takes longer than the process may take to end.
        let ending = app.clone();
        let ending = tokio::spawn(async move {
            ending.stopped().await;
            if let Some(interrupt) = interrupt {
                interrupt.fire();
            }
        });
        tracing::info!(node = name, "model {}, {}", card.model_id, card.objective);
        outlets.diagnostics.set_hardware_id(&card.model_id);
        outlets.introduce(&live.borrow(), &card);
        warn_if_unused(&name, &live.borrow(), &card);
        let mut is_active = false;
        let mut active_since = Instant::default();
        let leaving = loop {
            let looks = is_active && outlets.is_wanted();
            input.look(looks);
            let shot = tokio::select! {
                () = app.stopped() => break None,
                wish = lifecycle.next() => {
                    if wish.change == Change::Activate {
                        active_since = app.clock.now();
                        judge.frozen.reset();
                    }
                    if let Some(wish) = wish.switch(&mut is_active) {
                        break Some(wish);
                    }
                    outlets.presence.set(if is_active { Work::Idle("ready".into()) } else { Work::inactive() });
                    continue;
                }
                _ = second.tick() => {
                    outlets.report(&mut tally, app.clock.now(), is_active, looks);
                    input.remind();
                    continue;
                }
                changed = live.changed() => {
                    // The sender lives as long as the node.
                    if changed.is_ok() {
                        take_over(&live.borrow(), &mut judge.classifier, &card)?;
                        outlets.introduce(&live.borrow(), &card);
                        warn_if_unused(&name, &live.borrow(), &card);
                    }
                    continue;
                }
                // A new subscriber waits for the first estimate.
                () = outlets.taker.changed() => continue,
                _ = poll.tick() => continue,
                shot = input.next(), if looks => shot,
            };
            // The camera has ended, and says itself why.
            let Some(shot) = shot else { return Ok(()) };
            let received = MonotonicInstant::now();
            let arrival = Arrival::of(&input, app.clock.now());
            let Some(mut shot) = outlets.admit(shot, &arrival, stamp_source, &mut tally, &card) else {
                continue;
            };
            // Exposed before: it says nothing about now. It may have been on its way while the node was activated.
            if shot.frame.stamp < active_since {
                tally.outdated += 1;
                continue;
            }
            let binning = input.binning(&shot.frame).await;
            let current = live.borrow().clone();
            let ratios = current.pixel_ratios(binning, &card);
            let judged = tokio::task::block_in_place(|| judge.judge(&mut shot, ratios, &current));
            match judged {
                Ok((judged, doubt)) => {
                    if live.has_changed().unwrap_or(false) {
                        // How sure an estimate has to be is decided now, not when the frame came.
                        take_over(&live.borrow(), &mut judge.classifier, &card)?;
                    }
                    let estimate = judge.estimate(&judged, doubt);
                    tally.frames.handle_frame(&shot.frame, app.clock.now());
                    outlets.publish(&shot, &estimate, received.elapsed(), &mut tally, &card);
                    outlets.overlay.show(&shot, live.borrow().overlay_rate, |frame| {
                        let mut picture = Picture::of(frame);
                        for (origin, patch) in judged.origins.iter().zip(&judged.patches) {
                            picture.mark(*origin, &patch.probabilities);
                        }
                        picture
                    });
                }
                Err(_) if app.is_stopping() => break None,
                Err(error) => {
                    let of = arrival.stamped(shot.frame.stamp, &shot.frame_id);
                    outlets.refuse(format!("{error:#}"), of, &mut tally, &card);
                }
            }
        };
        input.look(false);
        ending.abort();
        drop(judge);
        outlets.presence.set(Work::inactive());
        if let Some(wish) = leaving {
            wish.done();
        }
    }
    drop(spinning);
    Ok(())
}

/// The settings from the next estimate on; they were checked before they were accepted.
fn take_over(
    parameters: &ClassifierParameters,
    classifier: &mut Classifier<AnyNetwork>,
    card: &ModelCard,
) -> Result<()> {
    Ok(classifier.set_config(parameters.config(card))?)
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
fn shipped_model(objective: &str) -> Result<PathBuf> {
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
    /// The focus controller.
    taker: Taker,
    overlay: Preview,
    diagnostics: Diagnostics,
    presence: Presence,
}

impl Outlets {
    /// Whether anybody takes estimates or pictures of them.
    fn is_wanted(&self) -> bool {
        let subscriptions = self.estimates.get_inter_process_subscription_count().unwrap_or(0);
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
        // Publishing fails only while the process ends.
        drop(self.estimates.publish(&estimate));
    }

    /// Counts and publishes an estimate; what is wrong with the camera is told once.
    fn publish(
        &self,
        shot: &Shot,
        estimate: &Estimate,
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
            ..to_message(estimate, decision, &card.model_id)
        };
        // Publishing fails only while the process ends.
        drop(self.estimates.publish(&message));
    }

    fn introduce(&mut self, parameters: &ClassifierParameters, card: &ModelCard) {
        self.presence.introduce(About {
            capabilities: capabilities(&["focus", "focus/overlay/compressed"]),
            limits: limits([
                ("min_certainty", parameters.min_certainty),
                ("pixel_size", card.pixel_size_um * 1e-6),
            ]),
            model: card.model_id.to_string(),
            ..About::default()
        });
    }

    fn report(&mut self, tally: &mut Tally, now: Instant, is_active: bool, looks: bool) {
        let refusal = std::mem::take(&mut tally.last_refusal);
        let refused = std::mem::take(&mut tally.refused);
        let decision_ms = std::mem::take(&mut tally.decision_ms);
        let [bad_stamps, restamped, outdated, untrusted] = tally.take_counts().map(|count| count.to_string());
        let doubt = tally
            .last_doubt
            .map_or_else(String::new, |doubt| doubt.to_string());
        let is_about_camera = tally.last_doubt.is_some_and(|doubt| doubt.is_about_camera());
        let (severity, message) = match (tally.frames.frames(), refused) {
            _ if !is_active => (Severity::Warn, "not active"),
            _ if !looks => (Severity::Ok, "nobody wants estimates"),
            (0, 0) => (Severity::Warn, "no frame in the last second"),
            (_, 0) if is_about_camera => (Severity::Error, doubt.as_str()),
            (_, 0) => (Severity::Ok, "judging frames"),
            (_, _) => (Severity::Error, refusal.as_str()),
        };
        if !looks {
            tally.frames.pause();
        }
        let slowest = decision_ms.iter().copied().max_by(f64::total_cmp);
        let [rate, drops, age, oldest] = tally.frames.values();
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
            ("decision_ms_median", to_text(median(decision_ms))),
            ("decision_ms_most", to_text(slowest)),
        ];
        self.diagnostics.publish(now, severity, message, &values);
        if is_active {
            self.presence.set(match severity {
                Severity::Ok if looks => Work::Busy(message.into()),
                Severity::Ok | Severity::Warn => Work::Idle(message.into()),
                Severity::Error => Work::Fault(message.into()),
            });
        }
    }
}
