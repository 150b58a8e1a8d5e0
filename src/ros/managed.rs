//! The skeleton of a managed node: what every node declares, its loop, and its way through the lifecycle.
//!
//! A node's `run` makes its handles, then [`Base::start`] and [`Base::run`] with a type that is [`Managed`]: that says how the
//! device is opened, what can happen ([`Managed::Event`]) and what to do then. A node that holds no device has a loop of its own
//! over what [`Base`] holds.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;

use super::app::App;
use super::diagnostics::{Diagnostics, Severity};
use super::lifecycle::{Change, Lifecycle, Wish};
use super::node::{Builder, SpinThread};
use super::presence::{Presence, Work};
use crate::units::Instant;

/// What every node has.
pub struct Base {
    /// Its process.
    pub app: App,
    /// Namespace and name, for log lines.
    pub name: String,
    /// `~/state` and `~/about`.
    pub presence: Presence,
    /// `/diagnostics`.
    pub diagnostics: Diagnostics,
    /// Its life.
    pub lifecycle: Lifecycle,
    is_active: bool,
    _spinning: SpinThread,
}

/// What a node does after an event.
pub enum Flow {
    /// Goes on.
    Continue,
    /// Ends, and its process with it.
    End,
    /// Lets go of its device, because of this.
    Fail(String),
    /// The same, in a transition.
    FailIn(Wish, String),
}

/// A node that holds a device while it is configured.
pub trait Managed: Send {
    /// What it holds: a port, a model, a slide.
    type Device: Send;
    /// Everything it reacts to while it holds the device, beside its life and the second.
    type Event: Send;

    /// Takes hold of the device, which may take seconds; dropped when the process ends.
    fn open(&mut self) -> BoxFuture<'static, Result<Self::Device>>;

    /// The device is open, and the transition done.
    ///
    /// # Errors
    /// What ends the process.
    fn handle_opened(&mut self, device: &mut Self::Device, base: &mut Base) -> Result<()>;

    /// Answers every request with why nothing can be done, for as long as it is polled; `_is_opening` while the device is being opened.
    fn refuse(&mut self, _is_opening: bool) -> impl Future<Output = Infallible> + Send {
        std::future::pending()
    }

    /// Waits for the next event; dropped when something else happens first.
    fn next_event(
        &mut self,
        device: &mut Self::Device,
        is_active: bool,
    ) -> impl Future<Output = Self::Event> + Send;

    /// Does what an event asks for.
    ///
    /// # Errors
    /// What ends the process.
    fn handle(
        &mut self,
        event: Self::Event,
        device: &mut Self::Device,
        base: &mut Base,
    ) -> impl Future<Output = Result<Flow>> + Send;

    /// A second is over: diagnostics.
    fn handle_second(&mut self, device: &mut Self::Device, base: &mut Base);

    /// Was activated or deactivated ([`Base::is_active`]), and says when that is done: at once, unless it has to do something.
    fn handle_switch(&mut self, wish: Wish, _device: &mut Self::Device, base: &mut Base) {
        base.switched(wish);
    }

    /// Lets go of the device.
    fn close(&mut self, device: Self::Device, base: &mut Base) -> impl Future<Output = ()> + Send;
}

/// Why a node lets go of its device.
enum Leaving {
    /// The node ends.
    End,
    /// A transition was requested.
    Asked(Wish),
    /// It cannot work any longer.
    Failed(Option<Wish>, String),
}

impl Base {
    /// Declares what every node has and gives the node its thread. `component` and `hardware_id` are those of [`Diagnostics::new`]. Must be
    /// called inside a tokio runtime, after every other handle of the node was made.
    ///
    /// # Errors
    /// If ROS refuses a handle.
    pub fn start(
        mut node: Builder,
        app: App,
        component: &str,
        hardware_id: &str,
        autostart: bool,
    ) -> Result<Self> {
        let mut base = Self {
            presence: Presence::new(&mut node, app.clock)?,
            diagnostics: Diagnostics::new(&mut node, component, hardware_id)?,
            lifecycle: Lifecycle::new(&mut node, &app, autostart)?,
            name: node.name().to_owned(),
            is_active: false,
            app,
            _spinning: node.spin()?,
        };
        base.presence.set(Work::inactive());
        Ok(base)
    }

    /// The process's time.
    pub fn now(&self) -> Instant {
        self.app.clock.now()
    }

    /// Whether the node is active.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Takes the node through its life until the process ends.
    ///
    /// # Errors
    /// A device that a node that starts by itself cannot open; what the node says ends the process.
    pub async fn run<N: Managed>(mut self, mut node: N) -> Result<()> {
        while let Some(mut device) = self.open(&mut node).await? {
            let leaving = self.work(&mut node, &mut device).await?;
            self.is_active = false;
            node.close(device, &mut self).await;
            match leaving {
                Leaving::End => break,
                Leaving::Asked(wish) => {
                    self.presence.set(Work::inactive());
                    wish.done();
                }
                Leaving::Failed(wish, reason) => {
                    match wish {
                        Some(wish) => self.lifecycle.fail_over(wish, &reason),
                        None => self.lifecycle.fail(&reason).await,
                    }
                    self.presence.set(self.lifecycle.work());
                }
            }
        }
        Ok(())
    }

    /// Waits to be configured until that has succeeded; None when the process ends.
    async fn open<N: Managed>(&mut self, node: &mut N) -> Result<Option<N::Device>> {
        loop {
            let wish = tokio::select! {
                wish = self.lifecycle.configure(&self.app, &mut self.diagnostics) => wish,
                never = node.refuse(false) => match never {},
            };
            let Some(wish) = wish else { return Ok(None) };
            let opening = node.open();
            let opened = tokio::select! {
                () = self.app.stopped() => return Ok(None),
                opened = opening => opened,
                never = node.refuse(true) => match never {},
            };
            if let Some(mut device) = wish.settle(opened)? {
                self.presence.set(Work::inactive());
                node.handle_opened(&mut device, self)?;
                return Ok(Some(device));
            }
        }
    }

    async fn work<N: Managed>(&mut self, node: &mut N, device: &mut N::Device) -> Result<Leaving> {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            let event = tokio::select! {
                () = self.app.stopped() => return Ok(Leaving::End),
                wish = self.lifecycle.next() => {
                    self.is_active = match wish.change {
                        Change::Activate => true,
                        Change::Deactivate => false,
                        Change::Configure | Change::CleanUp | Change::ShutDown => return Ok(Leaving::Asked(wish)),
                    };
                    node.handle_switch(wish, device, self);
                    continue;
                }
                _ = second.tick() => {
                    node.handle_second(device, self);
                    continue;
                }
                event = node.next_event(device, self.is_active) => event,
            };
            match node.handle(event, device, self).await? {
                Flow::Continue => {}
                Flow::End => return Ok(Leaving::End),
                Flow::Fail(reason) => return Ok(Leaving::Failed(None, reason)),
                Flow::FailIn(wish, reason) => return Ok(Leaving::Failed(Some(wish), reason)),
            }
        }
    }

    /// Publishes a status of this second, with what an orchestrator has to know of an active node.
    pub fn report(&mut self, severity: Severity, message: &str, values: &[(&str, String)], work: Work) {
        self.diagnostics.publish(self.now(), severity, message, values);
        if self.is_active {
            self.presence.set(work);
        }
    }

    /// Answers a transition that is done at once; an active node is ready.
    pub fn switched(&mut self, wish: Wish) {
        self.presence.set(if self.is_active {
            Work::Idle("ready".into())
        } else {
            Work::inactive()
        });
        wish.done();
    }
}
