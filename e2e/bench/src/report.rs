//! `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Zoned;

use crate::machine::{Machine, minutes};
use crate::plots;
use crate::results::{Column, Cost, Scenario, Side};
use crate::scenarios::{ELECTIONS, Rounds};
use crate::statistics::{Times, ratio, show};
use crate::targets::{print, table, targets};

/// A finished run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rounds: Rounds,
    pub(crate) took: Duration,
    pub(crate) conch: Side,
    pub(crate) client_go: Side,
}

const FILE: &str = "benchmarks.md";
const FAIL_OVER_PLOT: &str = "benchmarks-fail-over.svg";
const TIMELINE_PLOT: &str = "benchmarks-two-leaders.svg";

type TimesOf = fn(&Column) -> &Times;
type ValueOf = fn(&Cost) -> f64;
type Show = fn(f64) -> String;

impl Report {
    /// Writes the report and its plots into a directory.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("failed to create {}", directory.display()))?;
        let files = [
            (FILE, self.text()),
            (FAIL_OVER_PLOT, plots::fail_over(&self.conch, &self.client_go)),
            (TIMELINE_PLOT, plots::timelines(&self.conch, &self.client_go)),
        ];
        for (name, content) in files {
            let path = directory.join(name);
            fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
            println!("wrote {}", path.display());
        }
        Ok(())
    }

    /// Prints every target, and the counts last. Returns whether all were reached.
    pub(crate) fn print(&self) -> bool {
        print(&targets(&self.conch, &self.client_go), self.took)
    }

    fn text(&self) -> String {
        let date = Zoned::now().date();
        let mut text = format!(
            "# Benchmarks\n\n\
             Written by `make bench` on {date}, which ran for {}. Do not edit: run it again.\n\n\
             {}. Kubernetes 1.37.1 with two nodes, everything in namespaces of this one machine; etcd waits for the disk \
             (fsync). client-go v0.37.1.\n\n",
            minutes(self.took),
            self.machine.line(),
        );
        text += &self.fail_over();
        text += &self.two_leaders();
        text += &self.costs();
        text += &self.targets();
        text += METHOD;
        text
    }

    fn fail_over(&self) -> String {
        let mut text = format!(
            "## Fail-over\n\n\
             From the event to the next leader's first answer. The last column says how many times Conch's p50 client-go's \
             is (the better of its two ways).\n\n![Every fail-over as a dot]({FAIL_OVER_PLOT})\n\n"
        );
        text += "| p50 / p99 / max (n) | Conch | client-go, callbacks | client-go, `IsLeader()` | ratio |\n|---|---|---|---|---|\n";
        let rows: [(&str, TimesOf); 3] = [
            ("graceful: `kubectl delete pod`, from the program's exit", |column| &column.graceful),
            ("power cut of the leader's node, 15 s leases", |column| &column.power_cut),
            ("power cut of the leader's node, 3 s leases", |column| &column.short_power_cut),
        ];
        for (name, times) in rows {
            let ours = times(&self.conch.columns[0]);
            let theirs: Vec<&Times> = self.client_go.columns.iter().map(times).collect();
            let better = theirs.iter().filter_map(|times| times.percentile(50)).min();
            let ratio = ratio(seconds(ours.percentile(50)), seconds(better));
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {ratio} |",
                cell(ours),
                cell(theirs[0]),
                cell(theirs[1])
            );
        }
        let streams = &self.conch.streams;
        for (name, times, instead) in [
            ("the program resigns", &streams.resigned, "cannot resign"),
            ("the program closes its stream", &streams.closed, "has no stream"),
            (
                "the program of the leader crashes (SIGKILL) while it holds a stream",
                &streams.crashed,
                "nobody notices",
            ),
            (
                "`kubectl delete pod` of a leader whose program holds a stream",
                &streams.deleted,
                "has no stream",
            ),
        ] {
            let _ = writeln!(text, "| {name} | {} | {instead} | {instead} | – |", cell(times));
        }
        text + &self.what_is_in_the_way()
    }

    /// The same deletion with and without a stream differs by what the kubelet needs to tell the sidecar of the exit.
    fn what_is_in_the_way(&self) -> String {
        let (asked, streamed) = (&self.conch.columns[0].graceful, &self.conch.streams.deleted);
        let (Some(asked), Some(streamed)) = (asked.percentile(50), streamed.percentile(50)) else {
            return "\n".to_owned();
        };
        format!(
            "\nA program that only asks leaves no sign when it exits. Its sidecar may release the lease when SIGTERM comes, \
             which the kubelet sends after containerd has told it of the exit. The end of a stream is such a sign: the same \
             deletion takes {} instead of {} (p50), and the difference is the kubelet's and containerd's.\n\n",
            show(streamed),
            show(asked),
        )
    }

    fn two_leaders(&self) -> String {
        let mut text = format!(
            "## Two leaders at once\n\n\
             For how long the programs of two pods rightly believed that they lead: in how many of the trials, and for how \
             long at most.\n\n![Who believed when, in the worst trial of each fault]({TIMELINE_PLOT})\n\n"
        );
        text += "| | Conch | client-go, callbacks | client-go, `IsLeader()` |\n|---|---|---|---|\n";
        let columns = || self.conch.columns.iter().chain(&self.client_go.columns);
        let others = [Scenario::Graceful, Scenario::PowerCut, Scenario::ShortPowerCut, Scenario::Streams];
        for scenario in plots::DRAWN.into_iter().chain(others) {
            let cells: Vec<_> = columns().map(|column| overlap_cell(&column.lengths(scenario))).collect();
            let _ = writeln!(text, "| {} | {} |", scenario.name(), cells.join(" | "));
        }
        text + "\n"
    }

    fn costs(&self) -> String {
        let mut text = "## What one candidate costs\n\n\
            With three candidates and programs that ask once a second. The ratio says how many times Conch's number \
            client-go's is.\n\n| | Conch | client-go | ratio |\n|---|---|---|---|\n"
            .to_owned();
        let (ours, theirs) = (&self.conch.costs, &self.client_go.costs);
        let rate: Show = |rate| format!("{rate:.2}");
        let share: Show = |share| format!("{:.2} %", share * 100.0);
        let megabytes: Show = |bytes| format!("{:.1} MB", bytes / 1e6);
        let kinds: [(&str, ValueOf, Show); 6] = [
            ("writes a second", |cost| cost.writes, rate),
            ("reads a second", |cost| cost.reads, rate),
            ("watches opened a second", |cost| cost.watches, rate),
            ("processor time of the sidecar, of one core", |cost| cost.processor, share),
            ("memory of the sidecar's control group", |cost| cost.memory_bytes, megabytes),
            ("resident memory of the sidecar", |cost| cost.resident_bytes, megabytes),
        ];
        for (role, our, their) in
            [("leader", &ours.leader, &theirs.leader), ("follower", &ours.follower, &theirs.follower)]
        {
            for (what, value, shown) in &kinds {
                let (our, their) = (value(our), value(their));
                let (our_text, their_text) = (shown(our), shown(their));
                // Of what is shown as nothing, a ratio would say nothing.
                let known = Some(our).filter(|_| !our_text.starts_with("0.00"));
                let ratio = ratio(known, Some(their));
                let _ = writeln!(text, "| {role}: {what} | {our_text} | {their_text} | {ratio} |");
            }
        }
        let [our, their] = [ours.image_bytes, theirs.image_bytes].map(bytes);
        let _ = writeln!(
            text,
            "| image, not compressed | {} | {} | {} |\n",
            megabytes(our),
            megabytes(their),
            ratio(Some(our), Some(their))
        );
        text
    }

    fn targets(&self) -> String {
        let mut text = "## What Conch wants to reach\n\n".to_owned();
        text += &table(&targets(&self.conch, &self.client_go));
        let Rounds { graceful, streams, power_cuts, counting } = self.rounds;
        let _ = writeln!(
            text,
            "\n## How it was measured\n\n\
             {graceful} graceful deletions; {streams} resignations, closed streams, crashes and deletions each with a stream; {power_cuts} power cuts \
             with each length of lease, every one through {ELECTIONS} elections side by side, of which those count that lost \
             their leader; requests counted for {} s.\n",
            counting.as_secs()
        );
        text
    }
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "an image has far less than 2^52 bytes")]
pub(crate) fn bytes(count: u64) -> f64 {
    count as f64
}

fn cell(times: &Times) -> String {
    match (times.percentile(50), times.percentile(99), times.max()) {
        (Some(p50), Some(p99), Some(max)) => {
            format!("{} / {} / {} ({})", show(p50), show(p99), show(max), times.all().len())
        }
        _ => "–".to_owned(),
    }
}

fn overlap_cell(lengths: &Times) -> String {
    let trials = lengths.all().len();
    let with = lengths.all().iter().filter(|length| !length.is_zero()).count();
    match lengths.max() {
        None => "–".to_owned(),
        Some(Duration::ZERO) => format!("never in {trials}"),
        Some(longest) => format!("**{with} of {trials}, up to {}**", show(longest)),
    }
}

const METHOD: &str = "\
* **The peer** is `e2e/bench/client-go`: a `LeaseLock` with client-go's documented defaults (lease 15 s, renew deadline 10 s, \
retry period 2 s), `ReleaseOnCancel`, the client as client-go's own example makes it, a new elector after a lost term, and an \
HTTP endpoint on the loopback address. With 3 s leases: 3 s, 2 s, 500 ms. Its programs ask in both of the ways that are in \
use, in every pod at once: the flag of `OnStartedLeading` and `OnStoppedLeading`, and `IsLeader()`. It is a *native* sidecar, \
which is in its favour: an ordinary second container gets SIGTERM together with the program, and releases while the program \
still works.
* **Conch** runs as it is installed, with its default policy; with 3 s leases: renewal every 500 ms, `stopGrace` 500 ms, \
`maxPromise` 1 s.
* **The programs** are the same (`e2e/probe`): they ask every 10 ms, write down question and answer on the machine's one clock, \
take half a second to stop, and take silence of 500 ms for a no. Conch's answers count from the question until the deadline \
that they carry. An answer of client-go's sidecar carries none: it counts from the question until the program asks again, 10 ms later, and \
never for more than 20 ms. That is in client-go's favour: nothing tells a program to ask so often.
* **Two leaders** are counted from these answers by `e2e/src/checker`, the same for both.
* **Fail-over** ends with the first yes to a question that was asked after the event, in another pod. A graceful one begins \
when the last program of the old leader's pod writes its last line; a power cut, before the command that kills the node's \
processes.
* **Requests** are the API server's own count (`apiserver_flowcontrol_dispatched_requests_total`): a flow schema for each kind \
of request of these pods, so that nobody else's are counted. A leader's are those of elections with one candidate; what two \
more candidates add is theirs.
* **Processor time and memory** are those of the sidecar's control group, memory without inactive files: pages of the \
program itself count for whichever pod used them first, and so are not seen there; resident memory has them. The processor time \
includes answering the programs' questions: one a second of Conch, two of client-go.
* **Late answers**: the API server gets the leaders' requests at once, and its answers wait; 8 s later all arrive, and 0.3 s \
after that nothing comes through any more in either direction, for 30 s.
";
