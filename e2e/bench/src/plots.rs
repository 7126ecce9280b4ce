//! The two plots of the report.

use crate::results::{Column, Overlap, Scenario, Side};
use crate::statistics::{Times, show};
use crate::svg::{Anchor, Drawing};

const CONCH: &str = "#0b7a75";
const CLIENT_GO: &str = "#d1772b";
const TWO_LEADERS: &str = "#d00000";
const GRID: &str = "#dddddd";
const WIDTH: f64 = 960.0;
/// What stands left of the plots.
const LEFT: f64 = 270.0;
const RIGHT: f64 = 90.0;

/// Scenarios with a timeline.
pub(crate) const DRAWN: [Scenario; 5] = [
    Scenario::LeaseDeleted,
    Scenario::HolderCleared,
    Scenario::SlowAnswer,
    Scenario::ShortCut,
    Scenario::LongCut,
];

/// Every fail-over as a dot on a logarithmic scale.
pub(crate) fn fail_over(conch: &Side, client_go: &Side) -> String {
    let (ours, theirs) = (&conch.columns[0], &client_go.columns[0]);
    let rows: [(&str, &str, &Times); 10] = [
        ("graceful: Conch", CONCH, &ours.graceful),
        ("graceful: client-go", CLIENT_GO, &theirs.graceful),
        ("graceful, with a stream: Conch", CONCH, &conch.streams.deleted),
        ("program resigns: Conch", CONCH, &conch.streams.resigned),
        ("program closes its stream: Conch", CONCH, &conch.streams.closed),
        ("program with a stream crashes: Conch", CONCH, &conch.streams.crashed),
        ("power cut: Conch", CONCH, &ours.power_cut),
        ("power cut: client-go", CLIENT_GO, &theirs.power_cut),
        ("power cut, 3 s leases: Conch", CONCH, &ours.short_power_cut),
        ("power cut, 3 s leases: client-go", CLIENT_GO, &theirs.short_power_cut),
    ];
    // From a millisecond to 100 seconds: five decades.
    let place = |seconds: f64| LEFT + (seconds.max(0.001).log10() + 3.0) / 5.0 * (WIDTH - LEFT - RIGHT);
    let (top, height) = (40.0, 34.0);
    let bottom = top + height * 10.0;
    let mut drawing = Drawing::new(WIDTH, bottom + 40.0);
    drawing.text(
        (LEFT, 20.0),
        Anchor::Start,
        "From the event to the next leader's first answer; the bar is the median",
    );
    for (seconds, label) in
        [(0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"), (100.0, "100 s")]
    {
        drawing.line((place(seconds), top), (place(seconds), bottom), GRID, 1.0);
        drawing.text((place(seconds), bottom + 18.0), Anchor::Middle, label);
    }
    let mut middle = top + height / 2.0;
    for (label, color, times) in rows {
        drawing.text((LEFT - 12.0, middle + 4.0), Anchor::End, label);
        for time in times.all() {
            drawing.dot((place(time.as_secs_f64()), middle), color);
        }
        if let Some(median) = times.percentile(50) {
            let x = place(median.as_secs_f64());
            drawing.line((x, middle - 11.0), (x, middle + 11.0), color, 2.5);
            drawing.text((WIDTH - RIGHT + 12.0, middle + 4.0), Anchor::Start, &show(median));
        }
        middle += height;
    }
    drawing.finish()
}

/// Height of one pod's lane in the timelines.
const LANE: f64 = 7.0;
/// So many pods of an election are drawn.
const LANES: usize = 4;
/// Height of all lanes of one election.
const GROUP: f64 = LANE * 4.0 + 10.0;

/// Who believed when to lead, in the worst trial of each scenario.
pub(crate) fn timelines(conch: &Side, client_go: &Side) -> String {
    let columns: Vec<(&Column, &str)> = (conch.columns.iter().map(|column| (column, CONCH)))
        .chain(client_go.columns.iter().map(|column| (column, CLIENT_GO)))
        .collect();
    let top = 56.0;
    let block = |columns: &[(&Column, &str)]| columns.iter().map(|_| GROUP).sum::<f64>() + 24.0;
    let bottom = top + DRAWN.iter().map(|_| block(&columns)).sum::<f64>();
    let mut drawing = Drawing::new(WIDTH, bottom + 40.0);
    let title = "Who was told to lead: a lane for each pod, the leader at the time of the fault first; red: two at once";
    drawing.text((12.0, 20.0), Anchor::Start, title);
    for seconds in (0..=70).step_by(10).map(f64::from) {
        let x = place_in_timeline(seconds);
        drawing.line((x, top - 8.0), (x, bottom), GRID, 1.0);
        drawing.text((x, bottom + 18.0), Anchor::Middle, &format!("{seconds:.0} s"));
    }
    let mut y = top;
    for scenario in DRAWN {
        drawing.text((12.0, y + 8.0), Anchor::Start, &scenario.name().replace('`', ""));
        y += 18.0;
        for (column, color) in &columns {
            drawing.text((LEFT - 12.0, y + GROUP / 2.0), Anchor::End, column.way.name);
            if let Some(worst) = column.worst(scenario) {
                draw_lanes(&mut drawing, y, color, worst);
            }
            y += GROUP;
        }
        y += 6.0;
    }
    drawing.finish()
}

fn place_in_timeline(seconds: f64) -> f64 {
    LEFT + (seconds.clamp(-5.0, 75.0) + 5.0) / 80.0 * (WIDTH - LEFT - RIGHT)
}

/// One election, from `top` on.
fn draw_lanes(drawing: &mut Drawing, top: f64, color: &str, worst: &Overlap) {
    let mut bar = |from: f64, until: f64, y: f64, height: f64, color: &str| {
        let (left, right) = (place_in_timeline(from), place_in_timeline(until));
        drawing.rectangle((left, y), ((right - left).max(1.0), height), color);
    };
    let mut lane = top;
    for beliefs in worst.beliefs.iter().take(LANES) {
        for (from, until) in beliefs {
            bar(*from, *until, lane, LANE - 1.5, color);
        }
        lane += LANE;
    }
    for (from, until) in two_at_once(&worst.beliefs) {
        bar(from, until, top - 4.0, 2.5, TWO_LEADERS);
    }
    drawing.text((WIDTH - RIGHT + 12.0, top + GROUP / 2.0), Anchor::Start, &show(worst.length));
}

/// When at least two lanes hold at one time.
fn two_at_once(lanes: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let mut found = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        for (from, until) in lane {
            for (other_from, other_until) in lanes[number + 1..].iter().flatten() {
                let both = (from.max(*other_from), until.min(*other_until));
                found.extend((both.0 < both.1).then_some(both));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_are_found_whichever_lane_is_longer() {
        let lanes = [vec![(0.0, 10.0)], vec![(8.0, 20.0)], vec![(2.0, 3.0)]];
        assert_eq!(two_at_once(&lanes), [(8.0, 10.0), (2.0, 3.0)]);
        assert_eq!(two_at_once(&[vec![(0.0, 1.0)], vec![(1.0, 2.0)]]), []);
    }
}
