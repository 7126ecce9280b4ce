//! The elector in a small world, in which everything that can happen does: two candidates, one register, time in steps of a
//! second, and some faults. What runs is the elector itself, not a description of it; the checker (stateright) goes through
//! all orders in which messages arrive late, get lost or land after they were given up.
//!
//! [`Rules::ClientGo`] drives the same elector by other rules, to show that this world is big enough to find what they lack.

mod pod;
mod register;

pub use pod::Pod;
pub use register::Register;

use conch_election::{Claim, Content, Input, Timing};
use register::acquires;
use stateright::{Model, Property};
use std::time::Duration;

/// Milliseconds of true time in a step.
pub const STEP: u64 = 1_000;

/// Which rules the candidates follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Those of the elector.
    Conch,
    /// Pod 0, whose answers take a step, counts its validity from their arrival.
    FromReceipt,
    /// A record that is missing, or that names no holder, is free.
    MissingIsFree,
}

/// The world: what it may do, and for how long.
#[derive(Clone, Debug)]
pub struct Election {
    /// What the candidates follow.
    pub rules: Rules,
    /// So many steps.
    pub horizon: u64,
    /// So many faults in all, of which each happens once at most.
    pub faults: u8,
    /// So many messages come a step late.
    pub delays: u8,
    /// Ask of every state whether somebody would lead soon if nothing more went wrong.
    pub looks_ahead: bool,
}

/// What happened so far, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Steps of true time.
    pub now: u64,
    /// The store.
    pub register: Register,
    /// The two candidates.
    pub pods: [Pod; 2],
    faults_left: u8,
    delays_left: u8,
    /// For each of [`FAULTS`].
    happened: [bool; FAULTS.len()],
    /// The first thing that must never happen.
    pub wrong: Option<Wrong>,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// Two programs may act at one time.
    Overlap,
    /// A token that does not rise.
    Token,
    /// A take-over was sent while another pod's record stood.
    Early,
}

/// What somebody does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The record is deleted.
    Delete,
    /// The record is overwritten with no holder.
    Clear,
    /// A pod stops for two steps.
    Pause(usize),
    /// Nothing that a pod sends arrives any more, nor does it hear of anything.
    Cut(usize),
    /// A sidecar dies and is started again beside the same program.
    Restart(usize),
    /// A sidecar is told to end while its program goes on.
    Terminate(usize),
}

/// All that can happen.
const FAULTS: [Fault; 10] = [
    Fault::Delete,
    Fault::Clear,
    Fault::Pause(0),
    Fault::Pause(1),
    Fault::Cut(0),
    Fault::Cut(1),
    Fault::Restart(0),
    Fault::Restart(1),
    Fault::Terminate(0),
    Fault::Terminate(1),
];

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A second goes by: requests that were not answered are given up, programs ask.
    Step,
    /// The pod's request arrives.
    Arrives(usize),
    /// The pod's request arrives although it was given up, or its sender is dead.
    ArrivesLate(usize),
    /// The answer to the pod's request arrives.
    Answered(usize),
    /// The pod hears of the present state.
    Hears(usize),
    /// Somebody interferes: one of [`FAULTS`].
    Fault(usize),
}

/// Six seconds, renewed each second, one second of grace: one answer may come a step late.
pub fn timing() -> Timing {
    let ms = Duration::from_millis;
    match Timing::new(ms(6_000), ms(1_000), ms(1_000), ms(6_000)) {
        Ok(timing) => timing,
        Err(error) => unreachable!("{error}"),
    }
}

impl Model for Election {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now: 0,
            register: Register::fresh(),
            pods: [Pod::new(0), Pod::new(1)],
            faults_left: self.faults,
            delays_left: self.delays,
            happened: [false; FAULTS.len()],
            wrong: None,
        };
        for index in 0..2 {
            state.pods[index].tell(self.rules, 0, Input::Willing(true));
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() {
            return;
        }
        for (index, pod) in state.pods.iter().enumerate() {
            if pod.is_cut {
                continue;
            }
            if pod.request.is_some() {
                actions.push(Action::Arrives(index));
            }
            if pod.zombie.is_some() {
                actions.push(Action::ArrivesLate(index));
            }
            if pod.can_be_answered(self.rules, state.now) {
                actions.push(Action::Answered(index));
            }
            if pod.has_news && !pod.is_paused(state.now) {
                actions.push(Action::Hears(index));
            }
        }
        if state.faults_left > 0 {
            let open = (0..FAULTS.len()).filter(|fault| !state.happened[*fault]);
            actions.extend(open.map(Action::Fault));
        }
        if state.now < self.horizon && state.late(self.rules) <= state.delays_left {
            actions.push(Action::Step);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        state.act(self.rules, action);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one valid", |_, state: &State| state.wrong != Some(Wrong::Overlap)),
            Property::always("token strictly increases", |_, state: &State| {
                state.wrong != Some(Wrong::Token)
            }),
            Property::always("no early take-over", |_, state: &State| state.wrong != Some(Wrong::Early)),
            Property::always("a leader follows", |election: &Self, state: &State| {
                !election.looks_ahead || state.wrong.is_some() || state.leads_to_a_leader(election.rules)
            }),
            Property::sometimes("each leads once", |_, state: &State| {
                state.pods.iter().all(|pod| pod.token.is_some())
            }),
        ]
    }
}

impl State {
    fn act(&mut self, rules: Rules, action: Action) {
        match action {
            Action::Step => self.step(rules),
            Action::Arrives(index) => {
                if let Some(request) = self.pods[index].request.take() {
                    let reply = self.perform(index, &request);
                    self.pods[index].reply = Some(reply);
                }
            }
            Action::ArrivesLate(index) => {
                if let Some(request) = self.pods[index].zombie.take() {
                    self.perform(index, &request);
                }
            }
            Action::Answered(index) => {
                self.pods[index].answered(rules, self.now);
                self.ask(index);
            }
            Action::Hears(index) => {
                self.pods[index].has_news = false;
                let found = self.register.stored.clone();
                self.pods[index].tell(rules, self.now, Input::Changed(found));
            }
            Action::Fault(fault) => {
                self.faults_left -= 1;
                self.happened[fault] = true;
                self.suffer(rules, FAULTS[fault]);
            }
        }
    }

    /// How many messages would come late if a step went by now.
    fn late(&self, rules: Rules) -> u8 {
        self.pods.iter().map(|pod| pod.late(rules, self.now)).sum()
    }

    fn step(&mut self, rules: Rules) {
        self.delays_left = self.delays_left.saturating_sub(self.late(rules));
        self.now += 1;
        for index in 0..2 {
            if self.pods[index].is_paused(self.now) {
                continue;
            }
            self.pods[index].turn(rules, self.now);
            self.ask(index);
        }
    }

    /// The program asks, and may act on the answer for its stop grace longer than that says.
    fn ask(&mut self, index: usize) {
        let Some((token, until)) = self.pods[index].ask(self.now) else { return };
        let (pod, other) = (&self.pods[index], &self.pods[1 - index]);
        if other.acts_until > self.now * STEP {
            self.wrong.get_or_insert(Wrong::Overlap);
        }
        if pod.token != Some(token) && self.pods.iter().any(|pod| pod.token >= Some(token)) {
            self.wrong.get_or_insert(Wrong::Token);
        }
        let pod = &mut self.pods[index];
        pod.token = Some(token);
        pod.acts_until = pod.acts_until.max(until);
    }

    fn perform(&mut self, index: usize, request: &pod::Request) -> pod::Reply {
        let pod::Request::Write { record, expected, sent } = request else {
            return pod::Reply::Read(self.register.stored.clone());
        };
        let result = self.register.write(record, expected.as_ref());
        if result.is_ok() {
            if acquires(record) && *sent < self.pods[1 - index].stands_until {
                self.wrong.get_or_insert(Wrong::Early);
            }
            match record.claim {
                Claim::Held { .. } => self.pods[index].stands_until = self.now + timing().lease().as_secs(),
                Claim::Released { .. } => self.pods[index].stands_until = 0,
                Claim::Vacant => {}
            }
            self.changed();
        }
        pod::Reply::Written { result, sent: *sent }
    }

    fn changed(&mut self) {
        for pod in &mut self.pods {
            pod.has_news = true;
        }
    }

    fn suffer(&mut self, rules: Rules, fault: Fault) {
        match fault {
            Fault::Delete => self.register.delete(),
            Fault::Clear => self.register.put(Content::Unknown(register::cleared())),
            Fault::Pause(index) => self.pods[index].paused_until = self.now + 3,
            Fault::Cut(index) => self.pods[index].is_cut = true,
            Fault::Restart(index) => self.pods[index].restart(rules, self.now),
            Fault::Terminate(index) => self.pods[index].tell(rules, self.now, Input::Terminate),
        }
        if matches!(fault, Fault::Delete | Fault::Clear) {
            self.changed();
        }
    }

    /// Would somebody lead if from here on every message arrived at once? Within a lease, the slow clock with which it is
    /// counted, and a step for each of a failed request, its read and the take-over.
    fn leads_to_a_leader(&self, rules: Rules) -> bool {
        let mut state = self.clone();
        let patience = timing().lease().as_secs() * 10 / 9 + 3;
        for _ in 0..patience {
            state.settle(rules);
            state.act(rules, Action::Step);
        }
        state.settle(rules);
        (0..2).any(|index| state.pods[index].leads(state.now))
    }

    /// Delivers all that is under way.
    fn settle(&mut self, rules: Rules) {
        let mut more = true;
        while more {
            more = false;
            for index in 0..2 {
                let pod = &self.pods[index];
                let next = if pod.is_cut {
                    continue;
                } else if pod.request.is_some() {
                    Action::Arrives(index)
                } else if pod.can_be_answered(rules, self.now) {
                    Action::Answered(index)
                } else if pod.has_news && !pod.is_paused(self.now) {
                    Action::Hears(index)
                } else {
                    continue;
                };
                self.act(rules, next);
                more = true;
            }
        }
    }
}
