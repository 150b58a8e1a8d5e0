//! Why an estimate is not trusted.

/// The reason, with the figures, as a sentence.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Doubt {
    /// There is no model.
    #[error("classifier.model is none: no frame is looked at")]
    NoModel,
    /// No distribution among the answers.
    #[error("no patch has an answer: check the model with `hhnet evaluate`")]
    NoAnswer,
    /// Nearly black.
    #[error(
        "the image is nearly black, its mean brightness is {mean:.0} of 255: turn up the lamp or the exposure"
    )]
    Dark {
        /// Mean luminance, grey levels.
        mean: f64,
    },
    /// Nearly white.
    #[error(
        "the image is overexposed, its mean brightness is {mean:.0} of 255: turn down the lamp or the exposure"
    )]
    Clipped {
        /// Mean luminance, grey levels.
        mean: f64,
    },
    /// No colour, and the model needs it.
    #[error(
        "the image is grey, and this model tells the side of focus by colour: send colour images, or use a model that was trained on grey ones"
    )]
    Grey,
    /// Nothing but glass.
    #[error("too few patches with a specimen: 0 of {of}; move to where there is one")]
    Blank {
        /// Patches of the frame.
        of: usize,
    },
    /// A few patches, far from focus.
    #[error("too few patches with a specimen: {used}, an answer this far from focus takes {needed}")]
    TooFewPatches {
        /// Patches that voted.
        used: usize,
        /// Patches needed.
        needed: usize,
    },
    /// The vote is even.
    #[error("the certainty {certainty:.2} is below min_certainty {least:.2}")]
    Uncertain {
        /// Certainty of the vote.
        certainty: f32,
        /// Least that is trusted.
        least: f32,
    },
    /// The patches contradict each other.
    #[error("{opposed} of {of} patches disagree about the side of focus")]
    Opposed {
        /// Patches on the side of the fewer.
        opposed: usize,
        /// Patches with a height.
        of: usize,
    },
    /// A height that may be any.
    #[error("the defocus of {defocus_um:.1} µm is uncertain by {stddev_um:.1} µm")]
    Vague {
        /// Defocus, µm.
        defocus_um: f64,
        /// Its standard deviation, µm.
        stddev_um: f64,
    },
    /// A height the model never saw.
    #[error(
        "the defocus of {defocus_um:.1} µm is outside the range of the model, {least_um} to {most_um} µm"
    )]
    OutOfRange {
        /// Defocus, µm.
        defocus_um: f64,
        /// Least the model answers for, µm.
        least_um: f64,
        /// Largest, µm.
        most_um: f64,
    },
    /// Vote and height name different classes.
    #[error(
        "the patches vote for index {voted} and state a defocus of {defocus_um:.1} µm, which contradict each other"
    )]
    Contradiction {
        /// The voted index.
        voted: i8,
        /// Defocus, µm.
        defocus_um: f64,
    },
    /// Pixels of another size.
    #[error(
        "a pixel of the image shows {pixel_um:.3} µm of the slide and the model was trained for {model_um:.3} µm: change binning or objective, or correct microscope.pixel_size"
    )]
    PixelSize {
        /// Side of a pixel on the slide, µm.
        pixel_um: f64,
        /// The model's, µm.
        model_um: f64,
    },
    /// The same picture again.
    #[error(
        "the picture does not change: is the camera frozen? two frames taken {apart_s:.3} s apart are identical"
    )]
    Frozen {
        /// Time between the two, s.
        apart_s: f64,
    },
}

impl Doubt {
    /// Whether no motion can help: camera or settings have to be changed.
    pub fn is_about_camera(&self) -> bool {
        matches!(self, Self::Grey | Self::PixelSize { .. } | Self::Frozen { .. })
    }
}
