//! What was measured.

use std::time::Duration;

use crate::contender::{Contender, Way};
use crate::statistics::Times;

/// Everything that was measured of one contender.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) contender: Contender,
    /// One for each of its ways.
    pub(crate) columns: Vec<Column>,
    /// What only Conch offers.
    pub(crate) streams: Streams,
    pub(crate) costs: Costs,
    /// Promises that were broken in other ways than by two leaders, e.g. tokens that fell.
    pub(crate) faults: Vec<String>,
    /// What could not be measured to its end, and why.
    pub(crate) interrupted: Vec<String>,
}

/// What was measured of one way of asking.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) way: Way,
    /// From the old program's exit to the next leader's first answer.
    pub(crate) graceful: Times,
    /// From the power cut of the leader's node.
    pub(crate) power_cut: Times,
    /// The same with leases of 3 s.
    pub(crate) short_power_cut: Times,
    pub(crate) overlaps: Vec<Overlap>,
}

/// Fail-over between programs that hold Conch's stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    /// From `POST /v1/resign`.
    pub(crate) resigned: Times,
    /// From the closing of the stream.
    pub(crate) closed: Times,
    /// From SIGKILL to the program.
    pub(crate) crashed: Times,
    /// From the program's exit after `kubectl delete pod`.
    pub(crate) deleted: Times,
}

/// What was done to the elections while two leaders were looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    LeaseDeleted,
    HolderCleared,
    SlowAnswer,
    ShortCut,
    LongCut,
    Graceful,
    PowerCut,
    ShortPowerCut,
    Streams,
}

impl Scenario {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LeaseDeleted => "`kubectl delete lease`",
            Self::HolderCleared => "`kubectl patch lease` clears the holder",
            Self::SlowAnswer => "answers 8 s late, then the leader cut off for 30 s",
            Self::ShortCut => "the leader's node cut off for 18 s",
            Self::LongCut => "the leader's node cut off for 40 s",
            Self::Graceful => "graceful deletions",
            Self::PowerCut => "power cuts",
            Self::ShortPowerCut => "power cuts, 3 s leases",
            Self::Streams => "resignations, closed streams, crashes, deletions",
        }
    }
}

/// One election in one scenario.
#[derive(Debug, Clone)]
pub(crate) struct Overlap {
    pub(crate) scenario: Scenario,
    /// For how long two programs rightly believed that they lead.
    pub(crate) length: Duration,
    /// Who believed when, in seconds since the fault, pod by pod; the leader at the time of the fault first. Empty where no
    /// timeline is drawn.
    pub(crate) beliefs: Vec<Vec<(f64, f64)>>,
}

/// What a contender costs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Costs {
    pub(crate) leader: Cost,
    pub(crate) follower: Cost,
    /// The image as it is carried to a node.
    pub(crate) image_bytes: u64,
}

/// What one candidate costs, at rest: its program asks once a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Requests a second.
    pub(crate) reads: f64,
    pub(crate) watches: f64,
    pub(crate) writes: f64,
    /// Of the sidecar's container: processor time, as a share of one core.
    pub(crate) processor: f64,
    /// Memory of the control group, without what the kernel could take back at once.
    pub(crate) memory_bytes: f64,
    /// Resident memory of the process, its program's pages too.
    pub(crate) resident_bytes: f64,
}

impl Side {
    pub(crate) fn new(contender: Contender) -> Self {
        let column = |way: &Way| Column {
            way: *way,
            graceful: Times::default(),
            power_cut: Times::default(),
            short_power_cut: Times::default(),
            overlaps: Vec::new(),
        };
        Self {
            contender,
            columns: contender.ways().iter().map(column).collect(),
            streams: Streams::default(),
            costs: Costs::default(),
            faults: Vec::new(),
            interrupted: Vec::new(),
        }
    }
}

impl Column {
    /// The lengths of all overlaps in a scenario, those of no length too.
    pub(crate) fn lengths(&self, scenario: Scenario) -> Times {
        self.overlaps.iter().filter(|one| one.scenario == scenario).map(|one| one.length).collect()
    }

    /// The longest overlap of a scenario, to be drawn.
    pub(crate) fn worst(&self, scenario: Scenario) -> Option<&Overlap> {
        self.overlaps.iter().filter(|one| one.scenario == scenario).max_by_key(|one| one.length)
    }
}
