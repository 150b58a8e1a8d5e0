//! The byte protocols motion controllers speak, without the wires: a folder for each.

pub mod grbl;
