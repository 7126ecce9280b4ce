//! The event loop: true time, messages, faults.

use crate::{checker::Checker, node::Node, random::Random, store::Store};
use conch_election::{Action, Content, Failure, FailureKind, Input, Stored, Timing, WriteError};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

const SECOND: u64 = 1_000_000;
const END: u64 = 120 * SECOND;
/// After this no fault happens any more, and somebody must lead again.
const QUIET: u64 = 80 * SECOND;

enum Happening {
    Wake {
        node: usize,
        process: u32,
        wake: u64,
    },
    AtStore {
        node: usize,
        process: u32,
        request: u64,
        action: Action,
    },
    Answer {
        node: usize,
        process: u32,
        request: u64,
        input: Input,
    },
    Watch {
        node: usize,
        process: u32,
        found: Option<Stored>,
    },
    /// A watch that broke is opened again and tells the state that it finds.
    Relist {
        node: usize,
        process: u32,
    },
    Ask {
        node: usize,
    },
    Fault,
    /// The faults are over: a candidate that was never hurt starts.
    Reinforce,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    pub(crate) terms: u64,
    pub(crate) promises: u64,
}

pub(crate) struct World {
    random: Random,
    verbose: bool,
    timing: Timing,
    now: u64,
    count: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    store: Store,
    nodes: Vec<Node>,
    checker: Checker,
    /// How slow the network of this run is at most, in microseconds.
    delay_max: u64,
    loss_per_mille: u64,
    next_pod: u32,
}

impl World {
    pub(crate) fn new(seed: u64, verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let grace = random.below(4) * 500;
        let timing = Timing::new(
            Duration::from_secs(random.between(6, 15)),
            Duration::from_millis(random.between(500, 2_000)),
            Duration::from_millis(grace),
            Duration::from_millis(random.between(500, 10_000)),
        )
        .unwrap();
        let delay_max = [5_000, 200_000, 2 * SECOND, 20 * SECOND][usize::try_from(random.below(4)).unwrap()];
        let count = random.between(2, 7);
        let mut world = Self {
            verbose,
            timing,
            now: 0,
            count: 0,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            store: Store::default(),
            nodes: Vec::new(),
            checker: Checker::default(),
            delay_max,
            loss_per_mille: [0, 20, 200][usize::try_from(random.below(3)).unwrap()],
            next_pod: 0,
            random,
        };
        if world.random.per_mille(700) {
            world.store.put(Content::Fresh);
        }
        for _ in 0..count {
            world.add_pod();
        }
        for _ in 0..world.random.below(12) {
            let at = world.random.below(QUIET);
            world.schedule(at, Happening::Fault);
        }
        world.schedule(QUIET, Happening::Reinforce);
        world
    }

    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse((at, number))) = self.queue.pop() {
            if at > END || self.checker.violation.is_some() {
                break;
            }
            self.now = at;
            if let Some(happening) = self.happenings.remove(&number) {
                self.happen(happening);
            }
        }
        if self.checker.violation.is_none() && self.checker.last_promise + 5 * SECOND < END {
            let last = self.checker.last_promise / SECOND;
            self.checker.violation =
                Some(format!("nobody leads since {last} s though all faults ended at 80 s"));
        }
        Outcome {
            violation: self.checker.violation,
            terms: self.checker.terms,
            promises: self.checker.promises,
        }
    }

    fn schedule(&mut self, at: u64, happening: Happening) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count)));
        self.happenings.insert(self.count, happening);
    }

    fn add_pod(&mut self) {
        let mut node = Node::new(self.next_pod, self.timing, &mut self.random);
        self.next_pod += 1;
        node.elector.handle(node.clocks.at(self.now), Input::Willing(true));
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        let first = self.now + self.random.below(SECOND);
        self.schedule(first, Happening::Ask { node: index });
        self.drive(index);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fault => self.fault(),
            Happening::Reinforce => self.add_pod(),
            Happening::AtStore { node, process, request, action } => {
                self.at_store(node, process, request, &action);
            }
            Happening::Wake { node, .. }
            | Happening::Answer { node, .. }
            | Happening::Watch { node, .. }
            | Happening::Ask { node }
                if self.nodes[node].frozen_until > self.now =>
            {
                let later = self.nodes[node].frozen_until + self.random.below(1_000);
                self.schedule(later, happening);
            }
            Happening::Wake { node, process, wake } => {
                if self.nodes[node].process == process && self.nodes[node].wake == wake {
                    self.input(node, Input::Tick);
                }
            }
            Happening::Answer { node, process, request, input } => {
                if self.nodes[node].process == process && self.nodes[node].request == request {
                    self.nodes[node].request += 1;
                    self.input(node, input);
                }
            }
            Happening::Watch { node, process, found } => {
                if self.nodes[node].process == process {
                    self.input(node, Input::Changed(found));
                }
            }
            Happening::Relist { node, process } => self.relist(node, process),
            Happening::Ask { node } => self.ask(node),
        }
    }

    fn input(&mut self, index: usize, input: Input) {
        let node = &mut self.nodes[index];
        if node.gone {
            return;
        }
        if self.verbose {
            println!("{:>10} pod {} <- {input:?}", self.now, node.pod);
        }
        node.elector.handle(node.clocks.at(self.now), input);
        self.drive(index);
    }

    /// What the driver does: send what is due, and sleep no longer than it is told.
    fn drive(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.gone {
            return;
        }
        let moment = node.clocks.at(self.now);
        if let Some(action) = node.elector.poll_action(moment) {
            self.send(index, action);
        }
        let node = &mut self.nodes[index];
        while let Some(event) = node.elector.poll_event() {
            if self.verbose {
                println!("{:>10} pod {} -> {event:?}", self.now, node.pod);
            }
        }
        if let Some(sleep) = node.elector.poll_timeout(moment) {
            node.wake += 1;
            let (process, wake) = (node.process, node.wake);
            let sleep = u64::try_from(sleep.as_micros()).unwrap_or(END).min(END) + 1 + self.random.below(500);
            self.schedule(self.now + sleep, Happening::Wake { node: index, process, wake });
        }
    }

    fn send(&mut self, index: usize, action: Action) {
        let (process, request) = (self.nodes[index].process, self.nodes[index].request);
        let timed_out = Failure { kind: FailureKind::Timeout, retry_after: None };
        let (timeout, input) = match &action {
            Action::Read { timeout } => (*timeout, Input::Read(Err(timed_out))),
            Action::Write { timeout, .. } => (*timeout, Input::Written(Err(WriteError::Failed(timed_out)))),
        };
        let timeout = u64::try_from(timeout.as_micros()).unwrap();
        self.schedule(self.now + timeout, Happening::Answer { node: index, process, request, input });
        if self.unreachable(index) {
            return;
        }
        let arrives = self.now + self.delay();
        if self.random.per_mille(10) && self.now < QUIET {
            // A network that delivers twice.
            let again = arrives + self.delay();
            self.schedule(
                again,
                Happening::AtStore { node: index, process, request, action: action.clone() },
            );
        }
        self.schedule(arrives, Happening::AtStore { node: index, process, request, action });
    }

    fn at_store(&mut self, index: usize, process: u32, request: u64, action: &Action) {
        let before = self.store.stored.clone();
        let input = match action {
            Action::Read { .. } => Input::Read(Ok(self.store.stored.clone())),
            Action::Write { record, expected, .. } => {
                Input::Written(self.store.write(record, expected.as_ref()))
            }
        };
        if self.store.stored != before {
            self.tell_watches();
        }
        if !self.unreachable(index) {
            let arrives = self.now + self.delay();
            self.schedule(arrives, Happening::Answer { node: index, process, request, input });
        }
    }

    /// Each watch hears of each change, late, and now and then from a cache that lags.
    fn tell_watches(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].gone {
                continue;
            }
            if self.unreachable(index) {
                let process = self.nodes[index].process;
                let reopened = self.now + self.random.between(SECOND, 5 * SECOND);
                self.schedule(reopened, Happening::Relist { node: index, process });
                continue;
            }
            let lags = self.random.per_mille(20);
            let found = if lags { self.store.lagging(&mut self.random) } else { self.store.stored.clone() };
            let arrives = self.now + self.delay();
            let process = self.nodes[index].process;
            self.schedule(arrives, Happening::Watch { node: index, process, found });
        }
    }

    fn relist(&mut self, index: usize, process: u32) {
        let (at, happening) = if self.unreachable(index) {
            (self.now + SECOND, Happening::Relist { node: index, process })
        } else {
            let found = self.store.stored.clone();
            (self.now + self.delay(), Happening::Watch { node: index, process, found })
        };
        self.schedule(at, happening);
    }

    fn unreachable(&mut self, index: usize) -> bool {
        self.nodes[index].cut_until > self.now
            || (self.now < QUIET && self.random.per_mille(self.loss_per_mille))
    }

    fn delay(&mut self) -> u64 {
        let max = if self.now < QUIET { self.delay_max } else { 5_000 };
        // Most messages are quick, some take as long as they can.
        let max = if self.random.per_mille(800) { max / 10 } else { max };
        100 + self.random.below(max)
    }

    fn ask(&mut self, index: usize) {
        if self.nodes[index].gone {
            return;
        }
        // The program reads its clock, then asks; the answer is computed a little later.
        let asked = self.now.saturating_sub(self.random.below(2_000));
        let node = &mut self.nodes[index];
        if node.program_asks {
            let answer = node.elector.answer(node.clocks.at(self.now));
            if let Some(promise) = answer.promise {
                let length = u64::try_from(promise.valid_for.as_micros()).unwrap();
                let in_truth = length * 1_000_000 / node.clocks.program_rate;
                let grace = u64::try_from(self.timing.stop_grace().as_micros()).unwrap();
                self.checker.promised(node.pod, promise.token, asked, asked + in_truth + grace);
            }
        }
        let next = self.now + self.random.between(20_000, 600_000);
        self.schedule(next, Happening::Ask { node: index });
        self.drive(index);
    }

    fn fault(&mut self) {
        let index = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap();
        let length = self.random.between(1, 30) * SECOND;
        let length = length.min(QUIET.saturating_sub(self.now));
        let kind = self.random.below(11);
        if self.verbose {
            println!("{:>10} fault {kind} pod {} for {length}", self.now, self.nodes[index].pod);
        }
        match kind {
            0 => {
                let node = &mut self.nodes[index];
                node.frozen_until = node.frozen_until.max(self.now + length);
            }
            1 => self.nodes[index].suspend(self.now, length),
            2 => self.nodes[index].cut_until = self.now + length,
            3 | 4 => {
                let what = self.store.meddle(&mut self.random);
                if self.verbose {
                    println!("{:>10} record {what}", self.now);
                }
                self.tell_watches();
            }
            5 | 6 => {
                let (now, timing) = (self.now, self.timing);
                let node = &mut self.nodes[index];
                if !node.gone && node.frozen_until <= now {
                    node.restart_sidecar(now, timing, &mut self.random);
                    self.drive(index);
                }
            }
            7 => self.replace_pod(index),
            8 => self.resign(index),
            9 => self.input(index, Input::Terminate),
            _ => {
                let willing = self.random.per_mille(500);
                self.nodes[index].program_asks = willing;
                self.input(index, Input::Willing(willing));
            }
        }
        self.keep_some_candidate();
    }

    /// The pod dies as a whole, and another one of the same name may start.
    fn replace_pod(&mut self, index: usize) {
        self.nodes[index].gone = true;
        let pod = self.nodes[index].pod;
        self.checker.stopped(pod, self.now);
        self.next_pod += 3 - (self.next_pod.wrapping_sub(pod) % 3);
        self.add_pod();
    }

    fn resign(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.gone || node.frozen_until > self.now {
            return;
        }
        let moment = node.clocks.at(self.now);
        if let Some(promise) = node.elector.answer(moment).promise {
            self.checker.stopped(node.pod, self.now);
            node.elector.resign(moment, promise.token, None).unwrap();
            self.drive(index);
        }
    }

    /// Somebody must be left who can lead, or there is nothing to expect at the end.
    fn keep_some_candidate(&mut self) {
        if self.now + 2 * SECOND > QUIET || !self.nodes.iter().any(|node| !node.gone && node.program_asks) {
            self.add_pod();
        }
        let moment = self.now;
        let all_done = self
            .nodes
            .iter()
            .all(|node| node.gone || !node.program_asks || node.elector.is_done(node.clocks.at(moment)));
        if all_done {
            self.add_pod();
        }
    }
}
