//! Messages to what the core knows, and back.

use std::time::Duration;

use r2r::hhnet::action::Autofocus;
use r2r::hhnet::msg::{FocusEstimate, FocusState, StageState};

use crate::classes::DistanceIndex;
use crate::focus::session::StageNews;
use crate::focus::{Law, Observation, RunState, StageMotion, StageReport, Wanted};
use crate::ros::convert::from_time;
use crate::units::{Defocus, StageHeight};

/// What a goal asks for beyond the parameters.
///
/// # Errors
/// Names the field that makes no sense, and what it may be.
pub(super) fn to_wanted(goal: &Autofocus::Goal) -> Result<Wanted, String> {
    const MODES: [(u8, Option<Law>); 4] = [
        (Autofocus::Goal::MODE_DEFAULT as u8, None),
        (Autofocus::Goal::MODE_PREDICTIVE as u8, Some(Law::Predictive)),
        (Autofocus::Goal::MODE_STEPWISE as u8, Some(Law::Stepwise)),
        (Autofocus::Goal::MODE_PAPER as u8, Some(Law::Paper)),
    ];
    let Autofocus::Goal {
        mode,
        timeout,
        reach,
        tolerance,
        confirm,
        refine,
        hold,
    } = *goal;
    let law = MODES.iter().find(|(code, _)| *code == mode).map(|(_, law)| *law);
    let law = law.ok_or_else(|| format!("mode {mode} is none: give one of the constants MODE_*"))?;
    let limit = Duration::try_from_secs_f64(timeout)
        .map_err(|_| format!("a timeout of {timeout} s is no time: give seconds, or 0"))?;
    // Written so that NaN is refused too.
    if !(reach >= 0.0 && reach.is_finite()) {
        return Err(format!("a reach of {reach} m is no length: give metres, or 0"));
    }
    if !(0.0..=0.5).contains(&tolerance) {
        return Err(format!(
            "a tolerance of {tolerance} depths of field: give up to 0.5, or 0"
        ));
    }
    if refine && hold {
        return Err("refine and hold exclude each other: what is held is what single frames say".to_owned());
    }
    Ok(Wanted {
        law,
        limit: (limit > Duration::ZERO).then_some(limit),
        reach_um: (reach > 0.0).then_some(1e6 * reach),
        tolerance_depths: (tolerance > 0.0).then_some(tolerance),
        confirms_anew: confirm,
        refines: refine,
        holds: hold,
    })
}

/// `None` for an index that does not exist.
pub(super) fn to_observation(estimate: &FocusEstimate) -> Option<Observation> {
    let index = DistanceIndex::ALL
        .into_iter()
        .find(|index| index.value() == estimate.distance_index)?;
    let known = |value: f64| value.is_finite().then_some(value);
    let exposed = from_time(&estimate.header.stamp);
    Some(Observation {
        index,
        defocus: known(estimate.defocus).map(Defocus::from_metres),
        stddev_um: known(1e6 * estimate.defocus_stddev),
        // 0 is what one leaves who does not know it.
        sharpness: known(estimate.sharpness).filter(|sharpness| *sharpness > 0.0),
        other_side: index.other_side(&estimate.probabilities),
        trusted: estimate.trusted,
        reason: estimate.reason.as_str().into(),
        has_specimen: estimate.patches_used > 0,
        left_out: estimate.patches_left_out,
        exposed,
    })
}

pub(super) fn to_news(stage: StageState) -> StageNews {
    const IDLE: u8 = StageState::IDLE as u8;
    const MOVING: u8 = StageState::MOVING as u8;
    let motion = match stage.state {
        IDLE => StageMotion::Still,
        MOVING => StageMotion::Moving,
        _ => StageMotion::Unavailable,
    };
    let z = (stage.position_valid && stage.z.is_finite()).then(|| StageHeight::from_metres(stage.z));
    StageNews {
        report: StageReport {
            z,
            motion,
            at: from_time(&stage.header.stamp),
        },
        reason: stage.reason,
        stops: stage.stops,
    }
}

pub(super) fn describe(state: &RunState) -> (u8, &str) {
    match state {
        RunState::Disabled => (FocusState::DISABLED as u8, ""),
        RunState::Looking => (FocusState::LOOKING as u8, ""),
        RunState::Moving => (FocusState::MOVING as u8, ""),
        RunState::Searching => (FocusState::SEARCHING as u8, ""),
        RunState::InFocus => (FocusState::IN_FOCUS as u8, ""),
        RunState::Failed(reason) => (FocusState::FAILED as u8, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_makes_no_sense_is_refused_by_its_field() {
        let refused = |change: fn(&mut Autofocus::Goal)| {
            let mut goal = Autofocus::Goal::default();
            change(&mut goal);
            to_wanted(&goal).err().unwrap_or_default()
        };
        assert_eq!(to_wanted(&Autofocus::Goal::default()), Ok(Wanted::default()));
        assert!(refused(|goal| goal.timeout = f64::NAN).contains("no time"));
        assert!(refused(|goal| goal.timeout = -1.0).contains("no time"));
        assert!(refused(|goal| goal.mode = 9).contains("mode 9"));
        assert!(refused(|goal| goal.reach = -1e-6).contains("reach"));
        assert!(refused(|goal| goal.tolerance = 0.6).contains("up to 0.5"));
        assert!(refused(|goal| (goal.refine, goal.hold) = (true, true)).contains("exclude each other"));
        let asked = Autofocus::Goal {
            mode: Autofocus::Goal::MODE_PAPER as u8,
            timeout: 2.0,
            reach: 20e-6,
            tolerance: 0.1,
            confirm: true,
            refine: false,
            hold: true,
        };
        let wanted = Wanted {
            law: Some(Law::Paper),
            limit: Some(Duration::from_secs(2)),
            reach_um: Some(20.0),
            tolerance_depths: Some(0.1),
            confirms_anew: true,
            refines: false,
            holds: true,
        };
        let found = to_wanted(&asked).unwrap();
        assert!((found.reach_um.unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(
            Wanted {
                reach_um: Some(20.0),
                ..found
            },
            wanted
        );
    }
}
