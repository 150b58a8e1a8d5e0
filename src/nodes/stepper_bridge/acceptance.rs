//! `~/accept_position`: the caller's word for where the stage stands.

use r2r::ServiceRequest;
use r2r::hhnet::srv::AcceptPosition;

use crate::drivers::serial::StageHandle;
use crate::ros::node::reply;
use crate::units::Micrometres;

/// Takes the caller's word for where the stage stands.
pub(super) fn accept_position(
    request: &AcceptPosition::Request,
    stage: &StageHandle,
    zero: Micrometres,
) -> Result<String, String> {
    let um = named_positions_um(&request.axes, &request.position)?;
    let [x, y, z] = um;
    stage
        .reference([x, y, z.map(|z_um| z_um - zero.0)])
        .map_err(|refusal| refusal.to_string())?;
    let told: Vec<String> = ["x", "y", "z"]
        .into_iter()
        .zip(um)
        .filter_map(|(name, um)| um.map(|um| format!("{name} = {um:.2} µm")))
        .collect();
    Ok(format!("the stage is taken to be at {}", told.join(", ")))
}

/// x, y, z in µm from names of axes and as many positions in metres.
fn named_positions_um(axes: &[String], positions: &[f64]) -> Result<[Option<f64>; 3], String> {
    const FORM: &str = "give axes and as many positions in metres, for example axes [z], position [0.0]";
    if axes.is_empty() || axes.len() != positions.len() {
        return Err(format!(
            "{} axes and {} positions: {FORM}",
            axes.len(),
            positions.len()
        ));
    }
    let mut um = [None; 3];
    for (name, metres) in axes.iter().zip(positions) {
        let axis = ["x", "y", "z"].iter().position(|known| known == name);
        let Some(axis) = axis else {
            return Err(format!("an axis is not x, y or z: {FORM}"));
        };
        if um[axis].replace(metres * 1e6).is_some() {
            return Err(format!("the axis {name} is named twice: {FORM}"));
        }
    }
    Ok(um)
}

pub(super) fn answer_acceptance(
    request: ServiceRequest<AcceptPosition::Service>,
    outcome: Result<String, impl std::fmt::Display>,
) {
    let success = outcome.is_ok();
    let message = outcome.unwrap_or_else(|error| error.to_string());
    reply(request, AcceptPosition::Response { success, message });
}

#[cfg(test)]
mod tests {
    use super::named_positions_um;

    #[test]
    fn positions_are_named() {
        let check = |axes: &[&str], positions: &[f64], expected: Option<[Option<f64>; 3]>| {
            let axes: Vec<String> = axes.iter().map(|&axis| axis.to_owned()).collect();
            assert_eq!(
                named_positions_um(&axes, positions).ok(),
                expected,
                "{axes:?} {positions:?}"
            );
        };
        check(&["z"], &[0.0], Some([None, None, Some(0.0)]));
        check(&["z", "x"], &[1.0, 2.0], Some([Some(2e6), None, Some(1e6)]));
        check(&[], &[], None);
        check(&["z"], &[], None);
        check(&["z", "z"], &[1.0, 2.0], None);
        check(&["Z"], &[1.0], None);
    }
}
