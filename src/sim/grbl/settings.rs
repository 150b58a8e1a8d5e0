//! The emulated EEPROM.

use super::EmulatorConfig;

/// The settings of a controller that was set up for this machine.
pub(super) fn settings(config: &EmulatorConfig) -> Vec<(u8, f64)> {
    let mut settings = vec![
        (0, 10.0),
        (1, f64::from(config.idle_lock_ms)),
        (2, 0.0),
        (3, 0.0),
        (4, 0.0),
        (5, 0.0),
        (6, 0.0),
        (10, 1.0),
        (11, 0.010),
        (12, 0.002),
        (13, 0.0),
        (20, 0.0),
        (21, 0.0),
        (22, 0.0),
        (23, 0.0),
        (24, 25.0),
        (25, 500.0),
        (26, 250.0),
        (27, 1.0),
        (30, 1000.0),
        (31, 0.0),
        (32, 0.0),
    ];
    for axis in 0u8..3 {
        settings.push((100 + axis, config.steps_per_mm[usize::from(axis)]));
    }
    for axis in 0u8..3 {
        settings.push((110 + axis, config.max_mm_per_s[usize::from(axis)] * 60.0));
    }
    for axis in 0u8..3 {
        settings.push((120 + axis, config.mm_per_s2[usize::from(axis)]));
    }
    for axis in 0u8..3 {
        settings.push((130 + axis, config.travel_mm[usize::from(axis)]));
    }
    settings
}
