//! The candidate, the program and the shutdown, joined: what the HTTP handlers ask and tell.

use crate::{
    gate::{Lead, Now},
    program::{Channel, Closed, Order as ProgramOrder, Program},
    shutdown::{Order as ShutdownOrder, Shutdown, Sign, earlier},
    status::{ProgramState, Status},
    view::{About, View},
    witness::Witness,
};
use conch_election::{Moment, NotCurrent, Reason, Token};
use conch_stores::driver::{Candidate, Clock};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// One sidecar. Every answer to a program comes from here.
pub struct Sidecar {
    candidate: Candidate,
    clock: Clock,
    about: About,
    witness: Arc<Witness>,
    program: Mutex<Program>,
    shutdown: Mutex<Shutdown>,
    /// [`Self::run_timers`] has something new to wait for.
    rescheduled: Notify,
}

impl Sidecar {
    /// Joins the parts. Nothing happens until somebody asks.
    pub fn new(
        candidate: Candidate,
        clock: Clock,
        about: About,
        witness: Arc<Witness>,
        program: Program,
        shutdown: Shutdown,
    ) -> Self {
        let sidecar = Self {
            candidate,
            clock,
            about,
            witness,
            program: Mutex::new(program),
            shutdown: Mutex::new(shutdown),
            rescheduled: Notify::new(),
        };
        sidecar.tell_program(Program::tick);
        sidecar
    }

    /// The answer, now, for somebody who is told it over `channel`.
    pub fn answer(&self, channel: Channel) -> View {
        self.tell_program(Program::tick); // a heartbeat that is over is over now, whatever the timers do
        let now = self.now();
        let mut program = self.program();
        let mut answer = self.candidate.answer();
        if program.is_resigning() && answer.promise.is_some() {
            answer.promise = None;
            answer.reason = Reason::CoolingDown;
        }
        if let (Reason::NotAsked | Reason::CoolingDown, Some(reason)) =
            (answer.reason, program.objection(now))
        {
            answer.reason = reason;
        }
        let terminating = self.is_ending();
        if terminating && answer.promise.is_none() {
            answer.reason = Reason::Terminating;
        }
        if let Some(promise) = answer.promise {
            program.told(now.at, channel, promise.valid_for);
        }
        drop(program);
        let since = answer.promise.and_then(|promise| self.witness.term_began(promise.token));
        View::new(&self.about, answer, since, terminating)
    }

    /// Does this pod lead now? Promises nothing.
    pub fn leads(&self) -> bool {
        !self.program().is_resigning() && self.candidate.leads()
    }

    /// Was the end announced, so that waiting for the lead is in vain?
    pub fn is_ending(&self) -> bool {
        self.shutdown().is_announced()
    }

    /// See [`Candidate::subscribe`].
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.candidate.subscribe()
    }

    /// The counters.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Who this sidecar is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The answer, and what people want to know besides. It is a promise as any other answer.
    pub fn status(&self) -> Status {
        let now = self.now();
        let state = {
            let program = self.program();
            ProgramState::new(&program, now) // before this answer adds a promise
        };
        let answer = self.answer(Channel::Elsewhere);
        Status::new(answer, state, self.about.store.clone(), self.witness.transitions())
    }

    /// The program asks whether it leads.
    pub fn ask(&self) {
        self.tell_program(Program::ask);
    }

    /// The program says that it is alive.
    pub fn beat(&self) {
        self.tell_program(Program::beat);
        self.rescheduled.notify_one();
    }

    /// A check of the program ended.
    pub fn checked(&self, passed: bool) {
        self.tell_program(|program, now| program.checked(now, passed));
        self.rescheduled.notify_one();
    }

    /// The program opens a `/v1/lead` stream.
    pub fn open_stream(&self) {
        self.tell_program(Program::open_stream);
    }

    /// A `/v1/lead` stream is closed.
    pub fn close_stream(&self, closed: Closed) {
        tracing::info!(?closed, "a stream that held the lead is closed");
        self.tell_program(|program, now| program.close_stream(now, closed));
        self.rescheduled.notify_one();
    }

    /// The program says that it has stopped leading the term with this token.
    pub fn resign(&self, token: Token, cool_down: Option<Duration>) -> Result<(), NotCurrent> {
        self.candidate.resign(token, cool_down)?;
        if self.is_ending() {
            // Another pod will live longer; this one would only have to hand over again.
            self.candidate.set_willing(false);
        }
        tracing::info!(%token, ?cool_down, "the program resigned");
        Ok(())
    }

    /// The program is another one than the one that was told this token, and wants a higher one. Waits until the store has
    /// confirmed the new term; dropping it takes nothing back.
    pub async fn begin_anew(&self, token: Token) -> Result<(), NotCurrent> {
        let mut changes = self.subscribe();
        if self.program().is_resigning() {
            return Err(NotCurrent { current: None });
        }
        self.candidate.begin_anew(token)?;
        while self.candidate.token() == Some(token) {
            if changes.changed().await.is_err() {
                break; // the process ends
            }
        }
        let next = self.candidate.token().ok_or(NotCurrent { current: None })?;
        tracing::info!(%token, %next, "the program asked for a token of its own");
        Ok(())
    }

    /// The kubelet ran `preStop`, at this moment; whoever stands still for a while hears of it later.
    pub fn pre_stop(&self, called: Moment) {
        tracing::info!("the kubelet announced the end");
        self.note(Sign::PreStop(earlier(called, (self.clock)())));
    }

    /// SIGTERM or SIGINT came.
    pub fn signalled(&self, signal: &'static str) {
        tracing::info!(signal, "is told to end");
        self.note(Sign::Signal((self.clock)()));
    }

    /// Takes note of what the operator writes about pods that are being deleted, for ever.
    pub async fn follow_deletions(&self, mut deletions: watch::Receiver<Option<conch_crds::PodDeletion>>) {
        loop {
            let deletion = deletions.borrow_and_update().clone();
            if let Some(deletion) = deletion {
                tracing::info!(?deletion, "a pod that leads is being deleted");
                self.note(Sign::Deletion((self.clock)(), deletion));
            }
            if deletions.changed().await.is_err() {
                // The store is gone, and with it the driver: the process ends by that.
                return std::future::pending().await;
            }
        }
    }

    /// Takes note of who is to lead, as somebody wrote it on the record; for ever.
    pub async fn follow_transfers(&self, mut transfers: watch::Receiver<Option<String>>) {
        loop {
            let to = transfers.borrow_and_update().clone();
            if let Some(to) = to.filter(|to| *to != self.about.pod) {
                tracing::info!(to, leads = self.candidate.leads(), "another pod is asked to lead");
                self.candidate.stand_back();
            }
            if transfers.changed().await.is_err() {
                return std::future::pending().await; // as above
            }
        }
    }

    /// Waits for what only time, or where the lead is, decides; for ever.
    pub async fn run_timers(&self) {
        let mut changes = self.subscribe();
        loop {
            changes.mark_unchanged();
            self.tell_program(Program::tick);
            let now = self.now();
            let pause = self.program().timeout(now);
            let over = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = self.rescheduled.notified() => {}
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// Takes note of a sign of the end.
    pub fn note(&self, sign: Sign) {
        let orders = self.shutdown().note(sign);
        for order in orders {
            match order {
                ShutdownOrder::BeginNothing if self.candidate.leads() => {}
                ShutdownOrder::BeginNothing => self.candidate.set_willing(false),
                ShutdownOrder::Terminate => self.candidate.terminate(),
                // Its stream is open, so it lives: something else than the kubelet sent the signal. Its close will tell.
                ShutdownOrder::ProgramStopped if self.program().streams() > 0 => {
                    tracing::warn!(
                        "SIGTERM came as if the program had exited, but it still holds its stream"
                    );
                }
                ShutdownOrder::ProgramStopped => {
                    tracing::info!("the program is proven to have exited");
                    self.candidate.program_stopped();
                }
            }
        }
        self.candidate.announce();
    }

    fn now(&self) -> Now {
        let lead = if self.candidate.leads() {
            Lead::Here
        } else if self.candidate.wrote_last() {
            Lead::Left
        } else {
            Lead::Elsewhere
        };
        Now { at: (self.clock)(), lead }
    }

    /// Tells the program's part something, and the elector what follows from it.
    fn tell_program(&self, tell: impl FnOnce(&mut Program, Now) -> Vec<ProgramOrder>) {
        let now = self.now();
        let orders = tell(&mut self.program(), now);
        for order in orders {
            match order {
                ProgramOrder::Willing(true) if self.is_ending() => {}
                ProgramOrder::Willing(willing) => self.candidate.set_willing(willing),
                ProgramOrder::GiveAway => {
                    let reason = self.program().objection(now);
                    tracing::warn!(?reason, "the program is not fit to lead: gives the lead away");
                    if self.is_ending() {
                        self.candidate.set_willing(false);
                    }
                    self.candidate.give_away();
                }
                ProgramOrder::Stopped => self.candidate.program_stopped(),
            }
        }
    }

    fn program(&self) -> MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shutdown(&self) -> MutexGuard<'_, Shutdown> {
        self.shutdown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
