//! What goes wrong: each fault, done to the world.

use super::{
    checker::micros,
    scenario::{Fault, Program, QUIET, SECOND, Who},
    target,
    world::{Failing, Happening, Later, World},
};
use conch_election::Input;
use std::time::Duration;

impl World<'_> {
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.trace(|| format!("fault {fault:?}"));
        let until = |length: u64, now: u64| (now + length).min(QUIET);
        match fault {
            Fault::Pause(who, length)
            | Fault::Suspend(who, length)
            | Fault::Cut(who, length)
            | Fault::LoseAnswers(who, length)
            | Fault::Deafen(who, length) => {
                let end = until(length, self.now);
                if let Some(index) = target::find(&self.nodes, who, self.now) {
                    self.trouble(index, fault, end);
                }
            }
            Fault::StoreFails { length, performs, retry_after } => {
                self.failing = Some(Failing { until: until(length, self.now), performs, retry_after });
            }
            Fault::Delete
            | Fault::MarkDeleting(_)
            | Fault::Clear
            | Fault::Overwrite
            | Fault::Touch
            | Fault::Recreate
            | Fault::PutBack(_)
            | Fault::LoseHistory(_) => self.meddle(fault),
            Fault::Rollout { interval, operator_leaves } => {
                self.roll_out(interval);
                self.operator_left |= operator_leaves;
            }
            Fault::Transfer(to) => self.transfer(to % self.nodes.len()),
            Fault::RestartSidecar(who)
            | Fault::ReplacePod(who, _)
            | Fault::Resign(who, _)
            | Fault::Hang(who, ..)
            | Fault::NewTerm(who)
            | Fault::Crash(who, ..)
            | Fault::Drain { who, .. } => self.befall(who, fault),
        }
        self.keep_some_candidate();
    }

    fn trouble(&mut self, index: usize, fault: Fault, end: u64) {
        let now = self.now;
        let node = &mut self.nodes[index];
        match fault {
            Fault::Suspend(..) if node.frozen_until <= now => {
                node.frozen_until = end;
                node.clocks.suspend(now, end - now);
            }
            Fault::Pause(..) => node.frozen_until = node.frozen_until.max(end),
            Fault::Cut(..) => node.cut_until = end,
            Fault::LoseAnswers(..) => node.no_answers_until = end,
            Fault::Deafen(..) => node.deaf_until = end,
            _ => {}
        }
    }

    fn meddle(&mut self, fault: Fault) {
        match fault {
            Fault::Delete => self.store.delete(),
            Fault::MarkDeleting(soon) => {
                self.store.mark_deleting();
                let at = (self.now + soon).min(QUIET);
                self.schedule(at, Happening::Later(Later::Deleted));
            }
            Fault::Clear => self.store.overwrite(""),
            Fault::Overwrite => self.store.overwrite("somebody"),
            Fault::Touch => self.store.touch(),
            Fault::Recreate => {
                self.store.delete();
                self.store.overwrite("");
            }
            Fault::PutBack(steps) => self.put_back(steps),
            Fault::LoseHistory(steps) => {
                self.checker.history_lost = true;
                self.store.lose_history(steps);
            }
            _ => {}
        }
        self.changed();
    }

    /// An older state is put back by hand, and may say that the register is free, or that a pod holds it that did once.
    /// That is safe only with those who know better: so all must, and nobody new may come until the present leader, who may
    /// not hear of it, has surely stopped.
    fn put_back(&mut self, steps: usize) {
        let number = self.store.latest().saturating_sub(steps);
        let Some(content) = self.store.state(number).map(|stored| stored.content.clone()) else { return };
        let [before, after] = self.scenario.timings;
        let longest = micros(before.lease().max(after.lease())) + 3 * SECOND;
        let late = self.now + longest > QUIET;
        let known = |node: &super::node::Node| node.gone || node.sees_through(&self.store, &content);
        if late || !self.nodes.iter().all(known) {
            return self.trace(|| "not put back".to_owned());
        }
        self.trace(|| format!("put back: {content:?}"));
        self.newcomers_from = self.now + longest;
        self.store.put_back(content);
    }

    fn roll_out(&mut self, interval: u64) {
        let [before, after] = self.scenario.timings;
        self.rolled_out = true;
        self.store.longest_lease = Some(before.lease().max(after.lease()));
        self.store.stamp();
        self.changed();
        for pod in 0..self.nodes.len() {
            let at = (self.now + SECOND + interval * pod as u64).min(QUIET);
            self.schedule(at, Happening::Later(Later::Replaced { pod }));
        }
    }

    fn befall(&mut self, who: Who, fault: Fault) {
        let Some(index) = target::find(&self.nodes, who, self.now) else { return };
        let node = &mut self.nodes[index];
        let process = node.process;
        let now = self.now;
        let limit = |length: u64| (now + length).min(QUIET);
        match fault {
            Fault::ReplacePod(_, same_name) => self.replace_pod(index, same_name),
            Fault::RestartSidecar(_) => self.restart_sidecar(index),
            _ if node.frozen_until > self.now => {}
            Fault::Resign(_, cool_down) => self.resign(index, cool_down),
            Fault::Hang(_, length, gives_away) => {
                node.mute_until = limit(length);
                self.come_back(index, limit(length));
                self.input(index, Input::Willing(false));
                if gives_away {
                    self.input(index, Input::GiveAway);
                }
            }
            Fault::NewTerm(_) => self.new_term(index),
            Fault::Crash(_, length, proven) => {
                node.mute_until = limit(length);
                self.checker.stopped(index, self.now);
                if proven {
                    self.come_back(index, limit(length));
                    self.input(index, Input::Willing(false));
                    self.input(index, Input::ProgramStopped);
                }
            }
            Fault::Drain { proof, dies, alone, .. } => {
                node.drained = true;
                if let Some(proof) = proof {
                    let stops = Later::Stops { node: index, process };
                    self.schedule(limit(proof), Happening::Later(stops));
                }
                let end = if alone && proof.is_none() {
                    Later::Restarts { node: index, process }
                } else {
                    Later::Dies { node: index, process }
                };
                self.schedule(limit(dies), Happening::Later(end));
                self.input(index, Input::Terminate);
            }
            _ => {}
        }
    }

    fn come_back(&mut self, index: usize, at: u64) {
        let process = self.nodes[index].process;
        self.schedule(at, Happening::Back { node: index, process });
    }

    fn resign(&mut self, index: usize, cool_down: Option<u64>) {
        let node = &mut self.nodes[index];
        let moment = node.clocks.at(self.now);
        if let Some(promise) = node.elector.answer(moment).promise {
            self.checker.stopped(index, self.now);
            let cool_down = cool_down.map(Duration::from_micros);
            let result = node.elector.resign(moment, promise.token, cool_down);
            self.trace(|| format!("resigns: {result:?}"));
            self.drive(index);
        }
    }

    /// Those who hear of it stand back, for no longer than there are faults.
    fn transfer(&mut self, to: usize) {
        let [before, after] = self.scenario.timings;
        if self.now + micros(before.lease().max(after.lease())) + SECOND > QUIET {
            return;
        }
        for index in (0..self.nodes.len()).filter(|index| *index != to) {
            let node = &self.nodes[index];
            if node.frozen_until <= self.now && node.deaf_until <= self.now && node.cut_until <= self.now {
                self.input(index, Input::StandBack);
            }
        }
    }

    fn new_term(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let moment = node.clocks.at(self.now);
        // What was promised to the program before stands: nobody says that it stopped.
        if let Some(promise) = node.elector.answer(moment).promise {
            let result = node.elector.begin_anew(moment, promise.token);
            self.trace(|| format!("wants a new term: {result:?}"));
            self.drive(index);
        }
    }

    fn restart_sidecar(&mut self, index: usize) {
        if self.now < self.newcomers_from || self.nodes[index].frozen_until > self.now {
            return;
        }
        self.nodes[index].restart_sidecar();
        self.trace(|| format!("pod {index}: its sidecar starts again"));
        self.input(index, Input::Willing(true));
    }

    fn replace_pod(&mut self, index: usize, same_name: bool) {
        self.nodes[index].gone = true;
        self.checker.stopped(index, self.now);
        if self.now < self.newcomers_from {
            return;
        }
        let name = if same_name { self.nodes[index].name() } else { format!("pod-{}", self.nodes.len()) };
        let program = self.nodes[index].program;
        self.add_pod(name, program);
    }

    pub(crate) fn later(&mut self, later: Later) {
        match later {
            Later::Deleted => {
                if self.store.current().is_some_and(|stored| stored.deleting) {
                    self.store.delete();
                    self.changed();
                }
            }
            Later::Stops { node, process } => {
                if self.nodes[node].process == process && self.nodes[node].frozen_until <= self.now {
                    self.nodes[node].mute_until = QUIET;
                    self.checker.stopped(node, self.now);
                    self.input(node, Input::ProgramStopped);
                }
            }
            Later::Dies { node, process } => {
                if self.nodes[node].process == process {
                    self.replace_pod(node, false);
                }
            }
            Later::Restarts { node, process } => {
                if self.nodes[node].process == process {
                    self.restart_sidecar(node);
                }
            }
            Later::Replaced { pod } => {
                if !self.nodes[pod].gone {
                    self.replace_pod(pod, false);
                }
            }
            Later::Reinforce => self.add_pod("reinforcement".to_owned(), Program::Polls),
        }
    }

    /// Somebody must be left who can lead, or the rest of the run shows nothing.
    fn keep_some_candidate(&mut self) {
        let fit = |node: &super::node::Node| !node.gone && !node.drained;
        if self.now >= self.newcomers_from && !self.nodes.iter().any(fit) {
            self.add_pod(format!("pod-{}", self.nodes.len()), Program::Polls);
        }
    }
}
