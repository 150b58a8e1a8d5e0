//! Tells the crate what the ROS 2 it is built against has: Humble's `rcl_interfaces` knows no logger services.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=AMENT_PREFIX_PATH");
    println!("cargo:rustc-check-cfg=cfg(logger_services)");
    let prefixes = std::env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
    let has = |prefix: &Path| {
        prefix
            .join("share/rcl_interfaces/srv/GetLoggerLevels.srv")
            .exists()
    };
    if std::env::split_paths(&prefixes).any(|prefix| has(&prefix)) {
        println!("cargo:rustc-cfg=logger_services");
    }
}
