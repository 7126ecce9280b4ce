//! The event loop: true time, and the messages between pods and store.

mod network;

use super::{
    checker::{Belief, Checker, Kind, SETTLED, micros},
    node::Node,
    scenario::{END, Program, QUIET, SECOND, Scenario},
    store::Store,
    trace,
};
use conch_election::{
    Action, Event, Failure, FailureKind, Fence, Input, Promise, Record, Version, WriteError, Written,
};
use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// Requests are counted from here on.
const STEADY: u64 = END - 20 * SECOND;
/// How soon the operator stamps an object that was made anew.
const OPERATOR: u64 = SECOND / 10;

pub(crate) enum Happening {
    Wake {
        node: usize,
        process: u32,
        wake: u64,
    },
    AtStore {
        from: Sender,
        request: Request,
    },
    Answer {
        to: Sender,
        reply: Reply,
    },
    Change {
        node: usize,
        process: u32,
        state: usize,
    },
    /// A stream of changes that broke is opened again and tells the state that it finds.
    Reopen {
        node: usize,
        process: u32,
    },
    Ask {
        node: usize,
    },
    /// The program is back.
    Back {
        node: usize,
        process: u32,
    },
    Fault(usize),
    /// What a fault brings later.
    Later(Later),
    /// The operator looks after its stamp.
    Stamp,
}

/// Who waits for the answer to a request.
#[derive(Clone, Copy)]
pub(crate) struct Sender {
    node: usize,
    process: u32,
    request: u64,
    sent: u64,
}

#[derive(Clone)]
pub(crate) enum Request {
    Read,
    Write(Box<Record>, Option<Version>),
}

pub(crate) enum Reply {
    Read(usize),
    Written(Result<Written, WriteError>),
    Failed(Failure),
}

#[derive(Clone, Copy)]
pub(crate) enum Later {
    Deleted,
    Dies {
        node: usize,
        process: u32,
    },
    Restarts {
        node: usize,
        process: u32,
    },
    /// The program stops, and the sidecar has proof of it.
    Stops {
        node: usize,
        process: u32,
    },
    Replaced {
        pod: usize,
    },
    /// A candidate that was never hurt starts.
    Reinforce,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    /// How many each pod had.
    pub(crate) terms: Vec<u64>,
    pub(crate) promises: u64,
    pub(crate) trace: Vec<String>,
}

pub(crate) struct World<'scenario> {
    pub(crate) scenario: &'scenario Scenario,
    pub(crate) now: u64,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Node>,
    pub(crate) checker: Checker,
    /// All pods that start from now on are of the second timing.
    pub(crate) rolled_out: bool,
    /// Nobody looks after the stamp any more.
    pub(crate) operator_left: bool,
    /// The store answers nothing but failures.
    pub(crate) failing: Option<Failing>,
    /// No process may start before this: it would know nothing of a past that was put back.
    pub(crate) newcomers_from: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
    count: u64,
    trace: Option<Vec<String>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Failing {
    pub(crate) until: u64,
    pub(crate) performs: bool,
    pub(crate) retry_after: u64,
}

impl<'scenario> World<'scenario> {
    pub(crate) fn new(scenario: &'scenario Scenario, only: Option<Kind>, traced: bool) -> Self {
        let [before, after] = scenario.timings;
        let mut world = Self {
            scenario,
            now: 0,
            store: Store::new(),
            nodes: Vec::new(),
            checker: Checker::new(before.lease().max(after.lease()), only),
            rolled_out: false,
            operator_left: false,
            failing: None,
            newcomers_from: 0,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            free: Vec::new(),
            count: 0,
            trace: traced.then(Vec::new),
        };
        if scenario.fresh {
            world.store.mark_fresh();
        }
        for (number, program) in scenario.pods.iter().enumerate() {
            world.add_pod(format!("pod-{number}"), *program);
        }
        for (number, (at, _)) in scenario.faults.iter().enumerate() {
            world.schedule(*at, Happening::Fault(number));
        }
        world.schedule(QUIET, Happening::Later(Later::Reinforce));
        world
    }

    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse((at, _, slot))) = self.queue.pop() {
            if at > END || self.checker.violation.is_some() {
                break;
            }
            self.now = at;
            self.free.push(slot);
            if let Some(happening) = self.happenings[slot].take() {
                self.happen(happening);
            }
        }
        if self.checker.violation.is_none() {
            self.checker.finish();
            let of_pods: Vec<_> = self
                .nodes
                .iter()
                .map(|node| (node.pod, node.late_requests, node.timing.renew_interval()))
                .collect();
            self.checker.requests(&of_pods, END - STEADY);
        }
        let Checker { violation, terms, promises, .. } = self.checker;
        Outcome { violation, terms, promises, trace: self.trace.unwrap_or_default() }
    }

    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>11} {}", self.now, line()));
        }
    }

    pub(crate) fn schedule(&mut self, at: u64, happening: Happening) {
        self.count += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.happenings.push(None);
            self.happenings.len() - 1
        });
        self.happenings[slot] = Some(happening);
        self.queue.push(Reverse((at, self.count, slot)));
    }

    pub(crate) fn add_pod(&mut self, name: String, program: Program) {
        let [before, after] = self.scenario.timings;
        let (timing, longest) = if self.rolled_out {
            (after, before.lease().max(after.lease()))
        } else {
            (before, before.lease())
        };
        let pod = self.nodes.len();
        self.nodes.push(Node::new(pod, name, program, timing, longest, self.scenario.seed));
        let first = self.now + self.nodes[pod].random.below(SECOND);
        self.schedule(first, Happening::Ask { node: pod });
        self.trace(|| format!("pod {pod} starts"));
        self.input(pod, Input::Willing(true));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fault(number) => self.fault(self.scenario.faults[number].1),
            Happening::Later(later) => self.later(later),
            Happening::Stamp => {
                if !self.operator_left && self.store.stamp() {
                    self.tell_changes();
                }
            }
            Happening::AtStore { from, request } => self.at_store(from, &request),
            Happening::Reopen { node, process } => self.reopen(node, process),
            Happening::Wake { node, .. }
            | Happening::Answer { to: Sender { node, .. }, .. }
            | Happening::Change { node, .. }
            | Happening::Back { node, .. }
            | Happening::Ask { node }
                if self.nodes[node].frozen_until > self.now =>
            {
                let later = self.nodes[node].frozen_until + self.nodes[node].random.below(1_000);
                self.schedule(later, happening);
            }
            Happening::Wake { node, process, wake } => {
                if self.nodes[node].process == process && self.nodes[node].wake == wake {
                    self.input(node, Input::Tick);
                }
            }
            Happening::Answer { to, reply } => self.answer(to, reply),
            Happening::Change { node, process, state } => {
                if self.nodes[node].process == process {
                    self.nodes[node].learns(&self.store, state);
                    let found = self.store.state(state).cloned();
                    self.input(node, Input::Changed(found));
                }
            }
            Happening::Back { node, process } => {
                if self.nodes[node].process == process {
                    self.input(node, Input::Willing(true));
                }
            }
            Happening::Ask { node } => self.asks(node),
        }
    }

    fn answer(&mut self, to: Sender, reply: Reply) {
        let node = &mut self.nodes[to.node];
        if node.process != to.process || node.request != to.request || node.gone {
            return;
        }
        node.request += 1;
        let input = match reply {
            Reply::Read(state) => {
                node.learns(&self.store, state);
                Input::Read(Ok(self.store.state(state).cloned()))
            }
            Reply::Written(result) => {
                if let Ok(written) = &result {
                    node.knows.fence = node.knows.fence.max(written.fence);
                }
                Input::Written(result)
            }
            Reply::Failed(failure) => Input::Read(Err(failure)),
        };
        self.input(to.node, input);
    }

    pub(crate) fn input(&mut self, index: usize, input: Input) {
        if self.nodes[index].gone {
            return;
        }
        self.trace(|| format!("pod {index} <- {}", trace::of_input(&input)));
        let node = &mut self.nodes[index];
        node.elector.handle(node.clocks.at(self.now), input);
        self.drive(index);
    }

    /// What the driver does: send what is due, and sleep no longer than it is told.
    pub(crate) fn drive(&mut self, index: usize) {
        let moment = self.nodes[index].clocks.at(self.now);
        if let Some(action) = self.nodes[index].elector.poll_action(moment) {
            self.send(index, action);
        }
        while let Some(event) = self.nodes[index].elector.poll_event() {
            self.noted(index, &event);
        }
        let node = &mut self.nodes[index];
        if node.elector.is_done(moment) {
            node.gone = true;
            self.trace(|| format!("pod {index}: its sidecar ends"));
        } else if let Some(sleep) = node.elector.poll_timeout(moment) {
            node.wake += 1;
            let (process, wake) = (node.process, node.wake);
            let sleep = micros(sleep).min(END) + 1 + node.random.below(500);
            self.schedule(self.now + sleep, Happening::Wake { node: index, process, wake });
        }
    }

    fn noted(&mut self, index: usize, event: &Event) {
        self.trace(|| format!("pod {index} -> {event:?}"));
        match event {
            Event::TermBegan { token, .. } => {
                // An answer that was slower than the news of its term's end begins nothing.
                let leads = self.nodes[index].leads(self.now);
                for other in 0..self.nodes.len() {
                    if leads && other != index && self.nodes[other].leads(self.now) {
                        self.checker.both_lead(index, other, self.now);
                    }
                }
                let term = self.store.term_at(Fence(token.0));
                let seen = term.and_then(|term| self.nodes[index].fence_before(term));
                self.checker.began(index, *token, seen);
            }
            Event::HistoryLost if self.scenario.network.stale_per_mille == 0 => {
                self.checker.lost_history(index, self.now);
            }
            Event::Renewed { .. } => {}
            _ => return,
        }
        if self.nodes[index].program == Program::Streams {
            self.promise(index);
        }
    }

    fn send(&mut self, index: usize, action: Action) {
        self.trace(|| format!("pod {index} sends {}", trace::of_action(&action)));
        let node = &mut self.nodes[index];
        if let Action::Write { record, .. } = &action {
            node.sends(record);
        }
        node.late_requests += u64::from(self.now >= STEADY);
        let from = Sender { node: index, process: node.process, request: node.request, sent: self.now };
        let (request, timeout) = match action {
            Action::Read { timeout } => (Request::Read, timeout),
            Action::Write { record, expected, timeout, .. } => (Request::Write(record, expected), timeout),
        };
        let late = failed(&request, FailureKind::Timeout, None);
        self.schedule(self.now + micros(timeout), Happening::Answer { to: from, reply: late });
        if self.unreachable(index) {
            return;
        }
        let Some(delay) = self.delay(index) else { return };
        let network = &self.scenario.network;
        if self.nodes[index].random.per_mille(network.repeated_per_mille) {
            // A network that delivers twice, or a proxy that tries again.
            let twice = micros(self.nodes[index].timing.lease()) * 2;
            let again = self.now + delay + self.nodes[index].random.below(twice);
            if again < SETTLED {
                self.schedule(again, Happening::AtStore { from, request: request.clone() });
            }
        }
        self.schedule(self.now + delay, Happening::AtStore { from, request });
    }

    fn at_store(&mut self, from: Sender, request: &Request) {
        let failing = self.failing.filter(|failing| failing.until > self.now);
        let mut reply = None;
        if failing.is_none_or(|failing| failing.performs) {
            reply = Some(self.perform(from, request));
        }
        if let Some(Failing { retry_after, .. }) = failing {
            let retry_after = (retry_after > 0).then(|| Duration::from_micros(retry_after));
            reply = Some(failed(request, FailureKind::Unavailable, retry_after));
        }
        let lost = self.unreachable(from.node) || self.nodes[from.node].no_answers_until > self.now;
        if let (false, Some(reply), Some(delay)) = (lost, reply, self.delay(from.node)) {
            self.schedule(self.now + delay, Happening::Answer { to: from, reply });
        }
    }

    fn perform(&mut self, from: Sender, request: &Request) -> Reply {
        let Request::Write(record, expected) = request else {
            return Reply::Read(self.as_seen_by(from.node));
        };
        let result = self.store.write(record, expected.as_ref());
        if result.is_ok() {
            self.trace(|| format!("store: takes {:?} of pod {}", record.write.sequence, from.node));
            self.checker.written(from.node, record, from.sent, self.now);
            self.changed();
        }
        Reply::Written(result)
    }

    fn asks(&mut self, index: usize) {
        let next = self.now + self.nodes[index].random.between(20_000, 600_000);
        self.schedule(next, Happening::Ask { node: index });
        self.promise(index);
        if !self.nodes[index].gone {
            self.drive(index);
        }
    }

    /// The program is told the answer.
    fn promise(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.gone || node.mute_until > self.now {
            return;
        }
        let answer = node.elector.answer(node.clocks.at(self.now));
        let Some(Promise { token, valid_for, .. }) = answer.promise else { return };
        // A program that polls read its clock a little before; one that listens hears of it a little later.
        let before = node.random.below(2_000);
        let (from, lasts) = match node.program {
            Program::Polls => (self.now - before.min(self.now), node.clocks.by_program(micros(valid_for))),
            Program::Streams => (self.now, node.clocks.by_boottime(micros(valid_for))),
        };
        let until = from + lasts + micros(node.timing.stop_grace());
        let process = node.process;
        self.trace(|| format!("pod {index} may act until {until}"));
        self.checker.believes(&Belief { pod: index, process, token, from: self.now, until });
    }
}

fn failed(request: &Request, kind: FailureKind, retry_after: Option<Duration>) -> Reply {
    let failure = Failure { kind, retry_after };
    match request {
        Request::Read => Reply::Failed(failure),
        Request::Write(..) => Reply::Written(Err(WriteError::Failed(failure))),
    }
}
