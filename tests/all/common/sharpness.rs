//! Classical measures of sharpness, for tests.

/// One channel of interleaved RGB.
pub fn channel(rgb: &[u8], channel: usize) -> Vec<f64> {
    rgb.iter()
        .skip(channel)
        .step_by(3)
        .map(|value| f64::from(*value))
        .collect()
}

/// Energy of the gradient over two pixels of rows of `width`.
pub fn brenner(grey: &[f64], width: usize) -> f64 {
    let rows = grey.chunks(width).flat_map(|row| row.windows(3));
    rows.map(|w| (w[2] - w[0]) * (w[2] - w[0])).sum()
}

/// Energy of both Sobel gradients.
pub fn tenengrad(grey: &[f64], width: usize) -> f64 {
    let at = |x: usize, y: usize| grey[y * width + x];
    let mut sum = 0.0;
    for y in 1..grey.len() / width - 1 {
        for x in 1..width - 1 {
            let column = |x: usize| at(x, y - 1) + 2.0 * at(x, y) + at(x, y + 1);
            let row = |y: usize| at(x - 1, y) + 2.0 * at(x, y) + at(x + 1, y);
            sum += (column(x + 1) - column(x - 1)).powi(2) + (row(y + 1) - row(y - 1)).powi(2);
        }
    }
    sum
}
