//! Networks from ONNX files, run by ONNX Runtime.
//!
//! The runtime's library is loaded when the first model is opened: from the path in `ORT_DYLIB_PATH`, else
//! `libonnxruntime.so` from where the system looks for libraries. A model keeps this contract:
//!
//! | | name | type | shape |
//! |---|---|---|---|
//! | input | `patches` | uint8 | [n, 300, 300, 3] |
//! | input | `handcrafted` | float32 | [n, 18], not standardised |
//! | output | `probabilities` | float32 | [n, 7], order 4, 3, 2, 1, 0, -1, -2 |
//! | output | `defocus_um` | float32 | [n] |
//! | output | `log_variance` | float32 | [n] |
//!
//! and carries in its metadata `hhnet_class_edges_um` (JSON array: in focus, near, middle, far), `hhnet_objective` and
//! `hhnet_pixel_size_um`. May be missing: `hhnet_training_set`, `hhnet_scores`, `hhnet_z_range_um` (JSON array: least and largest
//! defocus it answers for; without it answers from beyond are not recognised), `hhnet_sharpness` and `hhnet_condenser` (see
//! [`crate::estimate::temperature`]; 1 without it), `hhnet_colour` (`false`: trained on grey images, which every other model refuses to judge)
//! and `hhnet_whole_frames` (`true`: it judges a patch by all patches of the frame, which are
//! then its one batch). Everything is checked when the file is opened, so that a model that opens also answers.

mod contract;
mod error;
mod file;
mod shipped;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use error::OnnxError;
use ndarray::{Array2, Array4, ArrayView2, ArrayView4, Axis};
use ort::environment::Environment;
use ort::session::{RunOptions, Session, SessionOutputs};
use ort::value::TensorRef;
use sha2::{Digest as _, Sha256};

use crate::classes::CLASSES;
use crate::estimate::features::FEATURES;
use crate::estimate::network::{ModelCard, Network, NetworkError, PatchPrediction};
use crate::estimate::patches::PATCH;
use crate::estimate::vote;

/// Patches a session judges at a time: what the layers hand on then stays in the processor's cache. Measured on the shipped model,
/// 30 patches on one core: 20 ms of CPU in fives, 24 ms at once.
const BATCH: usize = 5;

/// Most bytes of a model's file.
const MAX_BYTES: u64 = 1 << 30;

/// SHA-256 of every model that ships, as `sha256sum` writes them.
const SHIPPED: &str = include_str!("../../../models/SHA256SUMS");

/// A model from a file, ready to run.
///
/// Every thread has a session of its own and takes batches of patches until none is left: threads inside a session would have to
/// wait for each other after each of some hundred small operations.
pub struct OnnxNetwork {
    sessions: Vec<Session>,
    options: Arc<RunOptions>,
    card: ModelCard,
}

/// Ends the inferences of one network from another thread.
#[derive(Clone)]
pub struct Interrupt(Arc<RunOptions>);

impl Interrupt {
    /// Makes every inference fail from now on, the one under way included, which ends within one layer's time.
    pub fn fire(&self) {
        // ONNX Runtime states no way in which setting the flag can fail.
        self.0.terminate().ok();
    }
}

impl OnnxNetwork {
    /// Opens the model at `path` to run on `threads` CPU threads, each with its own copy of the weights.
    ///
    /// # Errors
    /// If the file is missing or not a model that keeps the contract, or ONNX Runtime cannot be loaded.
    pub fn open(path: impl AsRef<Path>, threads: usize) -> Result<Self, OnnxError> {
        let path = path.as_ref();
        Self::from_bytes(path, &read(path)?, threads)
    }

    /// The same for a model that ships with the package: its bytes have to be those of the release.
    ///
    /// # Errors
    /// As for [`Self::open`], and if a byte differs.
    pub fn open_shipped(path: impl AsRef<Path>, threads: usize) -> Result<Self, OnnxError> {
        let path = path.as_ref();
        let bytes = read(path)?;
        if !is_released(path, &bytes) {
            return Err(OnnxError::Changed { path: path.into() });
        }
        Self::from_bytes(path, &bytes, threads)
    }

    fn from_bytes(path: &Path, bytes: &[u8], threads: usize) -> Result<Self, OnnxError> {
        match file::inspect(bytes) {
            Err(file::NotOnnx) => return Err(OnnxError::NotOnnx { path: path.into() }),
            Ok(file::Weights::Outside) => return Err(OnnxError::ExternalData { path: path.into() }),
            Ok(file::Weights::Inside) => (),
        }
        let environment = environment()?;
        let refused = |reason: String| OnnxError::Refused {
            path: path.into(),
            reason: one_line(&reason),
        };
        let first = session(&environment, bytes).map_err(refused)?;
        contract::check(&first, path)?;
        let card = contract::card(&first, path, model_id(path, bytes))?;
        let mut sessions = vec![first];
        for _ in 1..threads {
            sessions.push(session(&environment, bytes).map_err(refused)?);
        }
        let options = RunOptions::new().map_err(|error| refused(text(error)))?;
        let mut network = Self {
            sessions,
            options: Arc::new(options),
            card,
        };
        network.try_out().map_err(refused)?;
        Ok(network)
    }

    /// What ends this network's inferences: a process that is asked to end need not wait for them.
    pub fn interrupt(&self) -> Interrupt {
        Interrupt(self.options.clone())
    }

    /// Metadata of the model at `path`: keys and values, in the order of the file. Needs no runtime.
    ///
    /// # Errors
    /// If the file is missing or is not a model.
    pub fn metadata(path: impl AsRef<Path>) -> Result<Vec<(String, String)>, OnnxError> {
        let path = path.as_ref();
        file::metadata(&read(path)?).map_err(|_| OnnxError::NotOnnx { path: path.into() })
    }

    /// The same of a file in memory; None if it is not a model.
    pub fn metadata_in(bytes: &[u8]) -> Option<Vec<(String, String)>> {
        file::metadata(bytes).ok()
    }

    /// A file in memory with metadata `entries` in place of any of the same keys; None if it is not a model.
    pub fn with_metadata_in(bytes: &[u8], entries: &[(&str, String)]) -> Option<Vec<u8>> {
        file::with_metadata(bytes, entries).ok()
    }

    /// Whether a metadata entry says what the contract needs of its key; None for a key of which it needs nothing.
    pub fn makes_sense(key: &str, text: &str) -> Option<bool> {
        contract::makes_sense(key, text)
    }

    /// Writes metadata `entries` (key, value) into the model at `path`, in place of any of the same keys. The file is replaced as a
    /// whole, and only by one that opens.
    ///
    /// # Errors
    /// If the file is missing, cannot be written, or would no longer be a model that keeps the contract.
    pub fn set_metadata(path: impl AsRef<Path>, entries: &[(&str, String)]) -> Result<(), OnnxError> {
        let path = path.as_ref();
        let not_onnx = |_| OnnxError::NotOnnx { path: path.into() };
        let bytes = file::with_metadata(&read(path)?, entries).map_err(not_onnx)?;
        let partial = PathBuf::from(format!("{}.partial", path.display()));
        let unwritable = |source| OnnxError::Unwritable {
            path: path.into(),
            source,
        };
        std::fs::write(&partial, bytes).map_err(unwritable)?;
        if let Err(error) = Self::open(&partial, 1) {
            std::fs::remove_file(&partial).map_err(unwritable)?;
            return Err(error);
        }
        std::fs::rename(&partial, path).map_err(unwritable)
    }

    /// Judges one black patch: a graph may promise shapes and types that it does not keep.
    fn try_out(&mut self) -> Result<(), String> {
        let (patches, handcrafted) = (Array4::zeros((1, PATCH, PATCH, 3)), Array2::zeros((1, FEATURES)));
        let answer = self
            .infer(patches.view(), handcrafted.view())
            .map_err(|error| error.to_string())?;
        match answer.as_slice() {
            [one] if vote::decide(&one.probabilities).is_some() => Ok(()),
            _ => Err("its probabilities for a black patch do not add up to 1".to_owned()),
        }
    }

    fn inference_error(&self, patches: usize, reason: &dyn std::fmt::Display) -> NetworkError {
        let reason = one_line(&reason.to_string());
        NetworkError::Inference {
            model: self.card.model_id.clone(),
            patches,
            reason,
        }
    }
}

impl Network for OnnxNetwork {
    fn infer(
        &mut self,
        patches: ArrayView4<'_, u8>,
        handcrafted: ArrayView2<'_, f32>,
    ) -> Result<Vec<PatchPrediction>, NetworkError> {
        let (count, rows) = (patches.len_of(Axis(0)), handcrafted.len_of(Axis(0)));
        if count != rows {
            return Err(NetworkError::Mismatch { patches: count, rows });
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let batch = if self.card.whole_frames { count } else { BATCH };
        let answer = run_in_batches(&mut self.sessions, &self.options, (patches, handcrafted), batch);
        let answer = answer.map_err(|error| self.inference_error(count, &error))?;
        if answer.len() != count {
            let model = self.card.model_id.clone();
            return Err(NetworkError::WrongCount {
                model,
                patches: count,
                answers: answer.len(),
            });
        }
        Ok(answer)
    }

    fn card(&self) -> &ModelCard {
        &self.card
    }
}

/// The answers of all batches, of at most `batch` patches each, in order.
fn run_in_batches(
    sessions: &mut [Session],
    options: &RunOptions,
    (patches, handcrafted): (ArrayView4<'_, u8>, ArrayView2<'_, f32>),
    batch: usize,
) -> ort::Result<Vec<PatchPrediction>> {
    let batches = patches
        .axis_chunks_iter(Axis(0), batch)
        .zip(handcrafted.axis_chunks_iter(Axis(0), batch));
    let queue = Mutex::new(batches.enumerate());
    let work = |session: &mut Session| {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let mut answers = Vec::new();
        while let Some((at, (patches, handcrafted))) = next() {
            answers.push((at, run(session, options, patches, handcrafted)?));
        }
        Ok::<_, ort::Error>(answers)
    };
    let Some((mine, others)) = sessions.split_first_mut() else {
        return Ok(Vec::new());
    };
    let needed = patches.len_of(Axis(0)).div_ceil(batch) - 1;
    let mut answers = std::thread::scope(|scope| {
        let others = others.iter_mut().take(needed);
        let started: Vec<_> = others.map(|session| scope.spawn(|| work(session))).collect();
        let mut answers = work(mine)?;
        for thread in started {
            let finished = thread.join();
            answers.extend(finished.map_err(|_| ort::Error::new("one of its threads panicked"))??);
        }
        Ok::<_, ort::Error>(answers)
    })?;
    answers.sort_by_key(|&(at, _)| at);
    Ok(answers.into_iter().flat_map(|(_, answers)| answers).collect())
}

fn run(
    session: &mut Session,
    options: &RunOptions,
    patches: ArrayView4<'_, u8>,
    handcrafted: ArrayView2<'_, f32>,
) -> ort::Result<Vec<PatchPrediction>> {
    let patches = TensorRef::from_array_view(patches)?;
    let handcrafted = TensorRef::from_array_view(handcrafted)?;
    let inputs = ort::inputs!["patches" => patches, "handcrafted" => handcrafted];
    predictions(&session.run_with_options(inputs, options)?)
}

fn predictions(outputs: &SessionOutputs<'_>) -> ort::Result<Vec<PatchPrediction>> {
    let numbers = |name: &str| {
        let output = outputs
            .get(name)
            .ok_or_else(|| ort::Error::new(format!("it has no output {name}")))?;
        Ok::<_, ort::Error>(output.try_extract_tensor::<f32>()?.1)
    };
    let (rows, _) = numbers("probabilities")?.as_chunks::<CLASSES>();
    let (defocus_um, log_variance) = (numbers("defocus_um")?, numbers("log_variance")?);
    let answers = rows.iter().zip(defocus_um.iter().zip(log_variance));
    Ok(answers
        .map(|(&probabilities, (&defocus_um, &log_variance))| PatchPrediction {
            probabilities,
            defocus_um,
            log_variance,
        })
        .collect())
}

/// The bytes of a model's file. What is not a file is refused before it is opened: a pipe would wait for a writer, a device has no end.
fn read(path: &Path) -> Result<Vec<u8>, OnnxError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => OnnxError::Missing { path: path.into() },
        _ => OnnxError::Unreadable {
            path: path.into(),
            source,
        },
    };
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err(OnnxError::NotAFile { path: path.into() });
    }
    // Some files state no length, and some grow.
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if about.len().max(bytes.len() as u64) > MAX_BYTES {
        return Err(OnnxError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}

/// The first `count` bytes of the SHA-256 in hexadecimal digits.
fn sha256(bytes: &[u8], count: usize) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .take(count)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether these are the bytes of the model of this name that ships.
fn is_released(path: &Path, bytes: &[u8]) -> bool {
    let digest = sha256(bytes, 32);
    let name = path.file_name().unwrap_or_default();
    let mut pins = SHIPPED.lines().filter_map(|line| line.split_once("  "));
    pins.any(|(pin, pinned)| pinned == name && pin == digest)
}

/// File name and the first 12 hexadecimal digits of the SHA-256.
fn model_id(path: &Path, bytes: &[u8]) -> Arc<str> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name} {}", sha256(bytes, 6)).into()
}

/// The process's one environment of ONNX Runtime; loads the library the first time.
fn environment() -> Result<Environment, OnnxError> {
    static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
    let mut kept = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*kept {
        return Ok(environment.clone());
    }
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    let library = named.map_or_else(|| PathBuf::from("libonnxruntime.so"), PathBuf::from);
    let failed = |reason: String| OnnxError::Runtime {
        library: library.clone(),
        reason: one_line(&reason),
    };
    let builder = ort::init_from(&library).map_err(|error| failed(error.to_string()))?;
    let environment = builder
        .with_name("hhnet")
        .with_telemetry(false)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    Ok(kept.insert(environment).clone())
}

/// A session that works on the thread it is called from.
fn session(environment: &Environment, bytes: &[u8]) -> Result<Session, String> {
    let builder = Session::builder(environment).map_err(text)?;
    let mut builder = builder.with_intra_threads(1).map_err(text)?;
    builder.commit_from_memory(bytes).map_err(text)
}

/// The message alone: a builder's errors own the builder, which is not Send.
fn text<R>(error: ort::Error<R>) -> String {
    error.message().to_owned()
}

/// The text on one line: the runtime's messages have breaks.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
