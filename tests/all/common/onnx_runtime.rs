//! ONNX Runtime, which the set-up brings: a test that needs it fails where it is absent.

use std::path::Path;

use hhnet::drivers::onnx::{OnnxError, OnnxNetwork};

/// Fails, with what to do, if the library of ONNX Runtime cannot be loaded.
pub fn require() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/good.onnx");
    if let Err(error @ OnnxError::Runtime { .. }) = OnnxNetwork::open(model, 1) {
        panic!("{error}; scripts/setup brings it: run that, then `source .ros/env.sh`");
    }
}
