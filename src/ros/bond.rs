//! Bonds between nodes: each gives signs of life, and a node that needs another counts its silence.
//!
//! A node with a lifecycle publishes [`Alive`] on `~/alive` every [`PERIOD`] and whenever its state changes. [`Bonds`] listens to
//! the nodes that its owner needs and says which of them is missing: silent for too long (crashed, hung, cut off), or not active.
//! A node that has never been heard is not missed: a foreign camera driver gives no signs, and what does not come from it is
//! noticed by the age of its data. Every node ends with a last sign, so that a crash and an end can be told apart. Signs of two
//! nodes in turn under one name are told too: then nothing that comes by that name can be trusted.
//!
//! Silence is measured from the arrival of a sign by the listener's own clock: clocks of two computers need not agree.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use anyhow::Result;
use r2r::QosProfile;
use r2r::hhnet::msg::Alive;
use tokio::sync::watch;

use super::app::App;
use super::clock::Clock;
use super::convert::to_time;
use super::life::State;
use super::node::{Builder, newest_reliable};
use crate::units::Instant;

/// Time between two signs.
pub const PERIOD: Duration = Duration::from_millis(100);

/// For how long a name counts as taken twice after the last proof; several times [`PERIOD`].
const DOUBLE_LIMIT: Duration = Duration::from_millis(500);

/// Gives signs of life until the process ends; the last one says so.
pub(super) fn give_signs(node: &mut Builder, app: &App, mut states: watch::Receiver<State>) -> Result<()> {
    let publisher = node.publisher::<Alive>("~/alive", QosProfile::default().keep_last(1))?;
    let name = node.name().to_owned();
    let app = app.clone();
    let clock = app.clock;
    let instance = RandomState::new().hash_one(&name);
    let sign = move |state: State| {
        publisher.publish(&Alive {
            stamp: to_time(clock.now()),
            node: name.clone(),
            state: state.id(),
            instance,
        });
    };
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(PERIOD);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = app.stopped() => break,
                _ = beat.tick() => {}
                changed = states.changed() => if changed.is_err() {
                    break;
                },
            }
            let state = *states.borrow_and_update();
            sign(state);
        }
        sign(State::Finalized);
    });
    Ok(())
}

/// The nodes that another one needs.
pub struct Bonds {
    needs: Vec<Need>,
    /// Silence after which a node counts as gone.
    limit: Duration,
}

struct Need {
    name: String,
    sign: watch::Receiver<Option<Sign>>,
}

/// The newest sign of life of a node.
#[derive(Clone, Copy, Debug)]
struct Sign {
    state: u8,
    heard: Instant,
    instance: u64,
    /// The instance that was heard before this one.
    before: Option<u64>,
    /// When one was heard again after another: a node that was started anew does not come back.
    doubled: Option<Instant>,
}

impl Sign {
    fn after(previous: Option<Self>, alive: &Alive, heard: Instant) -> Self {
        let (before, doubled) = match previous {
            None => (None, None),
            Some(last) if last.instance == alive.instance => (last.before, last.doubled),
            Some(last) if last.before == Some(alive.instance) => (Some(last.instance), Some(heard)),
            Some(last) => (Some(last.instance), last.doubled),
        };
        Self {
            state: alive.state,
            heard,
            instance: alive.instance,
            before,
            doubled,
        }
    }
}

impl Bonds {
    /// Listens to nodes by their names, relative to the namespace of `node`; empty names are skipped. `limit` is the silence
    /// after which a node counts as gone, several times [`PERIOD`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If ROS refuses a name.
    pub fn new<'a>(
        node: &mut Builder,
        names: impl IntoIterator<Item = &'a str>,
        limit: Duration,
        clock: Clock,
    ) -> Result<Self> {
        let mut needs = Vec::new();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let mut signs = node.subscribe::<Alive>(&format!("{name}/alive"), newest_reliable())?;
            let (sender, sign) = watch::channel(None);
            tokio::spawn(async move {
                while let Some(alive) = signs.next().await {
                    sender.send_modify(|sign| *sign = Some(Sign::after(*sign, &alive, clock.now())));
                }
            });
            needs.push(Need {
                name: name.to_owned(),
                sign,
            });
        }
        Ok(Self { needs, limit })
    }

    /// Listens to the nodes of the same name as `node`, itself included.
    ///
    /// # Errors
    /// If ROS refuses the name.
    pub(super) fn own(node: &mut Builder, clock: Clock) -> Result<Self> {
        let mut bonds = Self::new(node, ["~"], DOUBLE_LIMIT, clock)?;
        bonds.needs[0].name = format!("/{}", node.name());
        Ok(bonds)
    }

    /// Which of the nodes is missing, as a sentence: silent, not active, or there twice.
    pub fn missing(&self, now: Instant) -> Option<String> {
        self.first(|name, sign| {
            gone(name, sign, now, self.limit)
                .or_else(|| double(name, sign, now))
                .or_else(|| idle(name, sign))
        })
    }

    /// Which of the nodes is there twice, as a sentence.
    pub fn double(&self, now: Instant) -> Option<String> {
        self.first(|name, sign| double(name, sign, now))
    }

    /// Whether each of the nodes was heard.
    pub fn is_heard(&self) -> bool {
        self.needs.iter().all(|need| need.sign.borrow().is_some())
    }

    /// Which of the nodes is gone without a word, as a sentence.
    pub fn gone(&self, now: Instant) -> Option<String> {
        self.first(|name, sign| gone(name, sign, now, self.limit))
    }

    fn first(&self, missing: impl Fn(&str, Sign) -> Option<String>) -> Option<String> {
        self.needs.iter().find_map(|need| {
            let sign = (*need.sign.borrow())?;
            missing(&need.name, sign)
        })
    }
}

fn gone(name: &str, sign: Sign, now: Instant, limit: Duration) -> Option<String> {
    let silence = now.since(sign.heard);
    let has_ended = sign.state == State::Finalized.id();
    (silence > limit && !has_ended).then(|| {
        let limit_s = limit.as_secs_f64();
        format!("the {name} is gone: no sign of life for {limit_s} s")
    })
}

fn double(name: &str, sign: Sign, now: Instant) -> Option<String> {
    let heard = sign
        .doubled
        .is_some_and(|doubled| now.since(doubled) <= DOUBLE_LIMIT);
    heard.then(|| {
        format!(
            "two nodes named {name} run: end one of them, or give each graph a namespace or a ROS_DOMAIN_ID of its own"
        )
    })
}

fn idle(name: &str, sign: Sign) -> Option<String> {
    let is_active = sign.state == State::Active.id();
    (!is_active).then(|| format!("the {name} is not active but {}", State::label_of(sign.state)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(400);

    fn bonds(signs: &[Option<(State, u64)>]) -> Bonds {
        let needs = ["camera", "classifier"]
            .iter()
            .zip(signs)
            .map(|(name, sign)| Need {
                name: (*name).to_owned(),
                sign: watch::Sender::new(sign.map(|(state, ms)| Sign {
                    state: state.id(),
                    heard: at(ms),
                    instance: 1,
                    before: None,
                    doubled: None,
                }))
                .subscribe(),
            });
        Bonds {
            needs: needs.collect(),
            limit: LIMIT,
        }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(0) + Duration::from_millis(ms)
    }

    #[test]
    fn who_is_missing_is_named() {
        let check = |signs: &[Option<(State, u64)>], missing: &str, gone: &str| {
            let bonds = bonds(signs);
            assert_eq!(bonds.missing(at(1000)).unwrap_or_default(), missing);
            assert_eq!(bonds.gone(at(1000)).unwrap_or_default(), gone);
        };
        let active = |ms| Some((State::Active, ms));
        let silent = "the classifier is gone: no sign of life for 0.4 s";
        check(&[active(999), active(600)], "", "");
        check(&[active(999), active(599)], silent, silent);
        check(&[None, None], "", "");
        check(&[None, active(599)], silent, silent);
        check(
            &[active(900), Some((State::Inactive, 990))],
            "the classifier is not active but inactive",
            "",
        );
        check(
            &[Some((State::Finalized, 0)), active(999)],
            "the camera is not active but finalized",
            "",
        );
    }

    #[test]
    fn two_nodes_of_one_name_are_told_from_one_that_was_started_anew() {
        let check = |instances: &[u64], is_double: bool| {
            let mut sign = None;
            for (count, &instance) in (0..).zip(instances) {
                let alive = Alive {
                    state: State::Active.id(),
                    instance,
                    ..Alive::default()
                };
                sign = Some(Sign::after(sign, &alive, at(50 * count)));
            }
            let now = at(50 * (instances.len() as u64 - 1));
            let said = double("camera", sign.unwrap(), now);
            assert_eq!(said.is_some(), is_double, "{instances:?}: {said:?}");
            assert_eq!(
                double("camera", sign.unwrap(), now + Duration::from_millis(700)),
                None
            );
        };
        check(&[1, 1, 1], false);
        check(&[1, 1, 2, 2, 3], false);
        check(&[1, 2, 1], true);
        check(&[1, 1, 2, 2, 2, 1, 1], true);
        check(&[1, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2], true);
        check(&[1, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], false);
    }
}
