//! What a run can say for itself.

/// How focus was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// It was not.
    #[default]
    None,
    /// By what single frames say of the distance.
    Estimate,
    /// By the peak of sharpness in a sweep.
    Sweep,
    /// By what single frames say, and the peak of sharpness around that.
    Refined,
}

/// What a run can say for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// Estimates that were taken note of.
    pub frames: u32,
    /// How focus was found, or that it was not.
    pub method: Method,
    /// Whether what is in focus was seen to follow the lens.
    pub is_confirmed: bool,
    /// Standard deviation of what is left, µm, if it is known.
    pub error_um: Option<f64>,
    /// By how much refinement moved the lens from where the estimates had focus, µm; positive: up.
    pub refined_um: Option<f64>,
}

impl Account {
    /// In focus, and seen to follow the lens.
    pub(super) fn handle_focus(&mut self, method: Method, error_um: Option<f64>) {
        (self.method, self.is_confirmed, self.error_um) = (method, true, error_um);
    }
}
