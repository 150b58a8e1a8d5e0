//! `hhnet sim`: single frames, stacks through focus, and how long they take.

mod tour;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use hhnet::dataset::{Blank, DatasetConfig, Heights, Instrument};
use hhnet::drivers::whole_file::{write_bytes, write_whole};
use hhnet::objective::Objective;
use hhnet::sim::microscope::{
    LiveMicroscope, Microscope, MicroscopeConfig, Noise, PhaseDelay, Pose, SensorConfig,
};
use hhnet::sim::slide::{Appearance, Stain};
use hhnet::statistics::median;
use rayon::prelude::*;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Write one frame as PNG.
    Render {
        #[command(flatten)]
        scene: Scene,
        /// Height of the lens above the focus of the place, µm; positive: too far from the slide.
        #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
        z_um: f64,
        /// Sum over the points of the light source instead of transfer functions: slow, and right for strong stain too.
        #[arg(long)]
        reference: bool,
        /// PNG file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write one PNG per height, and manifest.csv with the height of each.
    Stack {
        #[command(flatten)]
        scene: Scene,
        /// Heights above the focus of the place, µm, separated by commas.
        #[arg(long, value_delimiter = ',', required = true, allow_hyphen_values = true)]
        z_um: Vec<f64>,
        /// Directory to write to; made if missing.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write what a calibration records: passes through focus from below and from above by a drive with play, and views beside a place.
    Tour(tour::Tour),
    /// Measure rendering.
    Bench {
        #[command(flatten)]
        scene: Scene,
        /// Print one JSON object instead of a sentence.
        #[arg(long)]
        json: bool,
    },
}

/// Which slide, where on it, through which lens.
#[derive(Args)]
pub(crate) struct Scene {
    /// Slide seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Middle of the frame on the slide, µm.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    x_um: f64,
    /// Middle of the frame on the slide, µm.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    y_um: f64,
    /// Objective: 10x0.25, 20x0.40, 40x0.65 or 60x0.85.
    #[arg(long, default_value = "40x0.65")]
    objective: String,
    /// Camera noise.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    noise: Switch,
    /// What the cells were stained with.
    #[arg(long, value_enum, default_value_t = StainChoice::Giemsa)]
    stain: StainChoice,
    /// One colour filter per pixel, as in most cameras, instead of three colours at every pixel.
    #[arg(long)]
    bayer: bool,
    /// Leave out the phase of the specimen.
    #[arg(long)]
    no_phase: bool,
    /// Draw condenser, aberrations, exposure and noise from the seed, as the training sets do.
    #[arg(long)]
    randomised: bool,
    /// Pixels per row.
    #[arg(long, default_value_t = hhnet::frame::CAMERA_WIDTH)]
    width: usize,
    /// Rows.
    #[arg(long, default_value_t = hhnet::frame::CAMERA_HEIGHT)]
    height: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StainChoice {
    Giemsa,
    /// Haematoxylin and eosin.
    He,
}

impl Scene {
    fn microscope(&self) -> anyhow::Result<Microscope> {
        Ok(Microscope::new(self.config()?)?)
    }

    fn config(&self) -> anyhow::Result<MicroscopeConfig> {
        let objective = Objective::by_name(&self.objective)?;
        let config = if self.randomised {
            MicroscopeConfig::randomised(objective, self.seed)
        } else {
            MicroscopeConfig {
                objective,
                slide_seed: self.seed,
                ..MicroscopeConfig::default()
            }
        };
        let stain = match self.stain {
            StainChoice::Giemsa => Stain::Giemsa,
            StainChoice::He => Stain::HaematoxylinEosin,
        };
        Ok(MicroscopeConfig {
            sensor: SensorConfig {
                bayer: self.bayer,
                ..config.sensor
            },
            appearance: Some(Appearance::stained(self.seed, stain)),
            width: self.width,
            height: self.height,
            noise: if self.noise == Switch::On {
                Noise::On
            } else {
                Noise::Off
            },
            phase: if self.no_phase {
                PhaseDelay::Off
            } else {
                PhaseDelay::On
            },
            ..config
        })
    }

    /// The pose at a height above focus.
    fn pose(&self, microscope: &Microscope, defocus_um: f64) -> Pose {
        Pose {
            x_um: self.x_um,
            y_um: self.y_um,
            z_um: microscope.focus_height_um(self.x_um, self.y_um) + defocus_um,
        }
    }

    fn write_png(&self, rgb: &[u8], path: &Path) -> anyhow::Result<()> {
        let (width, height) = (u32::try_from(self.width)?, u32::try_from(self.height)?);
        let format = image::ImageFormat::Png;
        write_whole(path, |file| -> anyhow::Result<()> {
            let colour = image::ExtendedColorType::Rgb8;
            Ok(image::write_buffer_with_format(
                file, rgb, width, height, colour, format,
            )?)
        })
        .with_context(|| cannot_write(path))
    }
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Render {
            scene,
            z_um,
            reference,
            out,
        } => {
            let mut microscope = scene.microscope()?;
            let rgb = if reference {
                microscope.expose_by_reference(scene.x_um, scene.y_um, z_um, 0, &mut tell_progress())?
            } else {
                microscope.expose_defocused(scene.x_um, scene.y_um, z_um, 0)?
            };
            scene.write_png(&rgb, &out)
        }
        Command::Stack { scene, z_um, out } => stack(&scene, &z_um, &out),
        Command::Tour(tour) => tour::run(&tour),
        Command::Bench { scene, json } => bench(&scene, json),
    }
}

/// Says on standard error how much of a long sum is done, whenever another hundredth is.
fn tell_progress() -> impl FnMut(f64) {
    let mut told = 0;
    move |part| {
        let percent = (100.0 * part) as u32;
        if percent > told {
            told = percent;
            // The reader may be gone; the picture is made all the same.
            let end = if percent == 100 { "\n" } else { "" };
            drop(write!(
                std::io::stderr(),
                "\rsum over source points: {percent} %{end}"
            ));
        }
    }
}

fn stack(scene: &Scene, heights_um: &[f64], out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut microscope = scene.microscope()?;
    let mut manifest = String::from("file,z_um,x_um,y_um\n");
    for (index, z_um) in heights_um.iter().enumerate() {
        let rgb = microscope.expose_defocused(scene.x_um, scene.y_um, *z_um, index as u64)?;
        let file = format!("z{index:03}_{z_um:+.3}um.png");
        scene.write_png(&rgb, &out.join(&file))?;
        manifest += &format!("{file},{z_um},{},{}\n", scene.x_um, scene.y_um);
    }
    let path = out.join("manifest.csv");
    write_bytes(&path, manifest).with_context(|| cannot_write(&path))
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}: free some space, or choose another place",
        path.display()
    )
}

/// One thread and no other, whatever the machine has: figures that can be compared.
fn on_one_core<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    on_threads(1, work)
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?
        .install(work)
}

fn bench(scene: &Scene, json: bool) -> anyhow::Result<()> {
    let (first_frame_s, exact_render_s) = on_one_core(|| bench_exact(scene))?;
    let realtime_fps = on_one_core(|| bench_live(scene))?;
    let patches_per_min = on_threads(2, || bench_patches(scene))?;
    let report = serde_json::json!({
        "realtime_fps": realtime_fps,
        "first_frame_s": first_frame_s,
        "exact_render_s": exact_render_s,
        "patches_per_min": patches_per_min,
        "rss_mb": peak_memory_mb()?,
        "width": scene.width,
        "height": scene.height,
    });
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{report:#}")?;
    } else {
        writeln!(
            out,
            "{}x{} on one core: {realtime_fps:.0} live frames/s, first frame of a field {first_frame_s:.2} s, exact frames \
             {exact_render_s:.3} s; on two {patches_per_min:.0} training patches/min",
            scene.width, scene.height
        )?;
    }
    Ok(())
}

/// Seconds of the first frame of a live field, and median seconds of an exact one.
fn bench_exact(scene: &Scene) -> anyhow::Result<(f64, f64)> {
    let mut live = LiveMicroscope::new(scene.config()?)?;
    let start = Instant::now();
    live.expose_moving(scene.pose(live.microscope(), 3.0), [0.0; 3], 0)?;
    let first_frame_s = start.elapsed().as_secs_f64();
    let mut microscope = scene.microscope()?;
    let depth_um = microscope.config().objective.depth_of_field_um();
    let mut times_s = Vec::new();
    for (sequence, depths) in (0_u64..).zip([0.0, -14.0, -3.0, -1.0, 0.0, 0.7, 2.0, 5.0, 12.0, 20.0, 40.0]) {
        let start = Instant::now();
        microscope.expose_defocused(scene.x_um, scene.y_um, depths * depth_um, sequence)?;
        // The first one paints the field.
        if sequence > 0 {
            times_s.push(start.elapsed().as_secs_f64());
        }
    }
    Ok((first_frame_s, median(times_s).unwrap_or_default()))
}

/// Frames per second of a live microscope whose stage swings ±10 µm about focus, after one swing.
fn bench_live(scene: &Scene) -> anyhow::Result<f64> {
    const FRAMES: u64 = 120;
    let mut live = LiveMicroscope::new(scene.config()?)?;
    let height_um = |frame: u64| 10.0 * (std::f64::consts::TAU * frame as f64 / FRAMES as f64).sin();
    for frame in 0..FRAMES {
        live.expose_moving(scene.pose(live.microscope(), height_um(frame)), [0.0; 3], frame)?;
    }
    let start = Instant::now();
    for frame in 0..FRAMES {
        live.expose_moving(
            scene.pose(live.microscope(), height_um(frame)),
            [0.0, 0.0, 0.2],
            frame,
        )?;
    }
    let frames_per_s = FRAMES as f64 / start.elapsed().as_secs_f64();
    fill(scene, &mut live)?;
    Ok(frames_per_s)
}

/// Looks from one end of the heights a focusing stage meets to the other, until the live microscope keeps as much light as it ever
/// does: for the memory.
fn fill(scene: &Scene, live: &mut LiveMicroscope) -> anyhow::Result<()> {
    const STEPS: i32 = 45;
    let farthest_um = 45.0 * live.microscope().config().objective.depth_of_field_um();
    for step in -STEPS..=STEPS {
        let part = f64::from(step) / f64::from(STEPS);
        let height_um = farthest_um * (4.0 * part).sinh() / 4.0_f64.sinh();
        live.expose_moving(scene.pose(live.microscope(), height_um), [0.0; 3], 0)?;
    }
    Ok(())
}

/// Training patches per minute, features included, on as many threads as the pool has.
fn bench_patches(scene: &Scene) -> anyhow::Result<f64> {
    let objective = Objective::by_name(&scene.objective)?;
    let config = DatasetConfig {
        z_max_um: 45.0 * objective.depth_of_field_um(),
        objective,
        instrument: Instrument::Randomised,
        slides: 6,
        first_seed: scene.seed,
        frames_per_slide: 7,
        frames_per_field: 2,
        patches_per_frame: 9,
        heights: Heights::Continuous,
        blank: Blank::Skip,
        jpeg_share: 0.0,
        empty: false,
    };
    config.check()?;
    let start = Instant::now();
    let fields: Vec<_> = (0..config.slides)
        .flat_map(|slide| config.fields(slide))
        .collect();
    let patches = fields
        .par_iter()
        .map(|field| Ok(config.render(field)?.labels.len()));
    let patches: usize = patches.collect::<anyhow::Result<Vec<_>>>()?.iter().sum();
    Ok(60.0 * patches as f64 / start.elapsed().as_secs_f64())
}

/// Largest memory this process has had in use.
fn peak_memory_mb() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kib.context("/proc/self/status has no VmHWM in kB")? / 1024.0)
}
