//! How long answers take: one question after the other, each timed from before it is sent until its answer is read whole.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::ask::{Answer, Connection};

/// Where the time is measured.
const PATH: &str = "/v1/leader";

/// What to time.
#[derive(Debug, Clone)]
pub struct Timing {
    /// `http://host:port` of the sidecar, which must lead.
    pub url: String,
    /// Questions that count.
    pub requests: usize,
    /// Questions before them, which do not.
    pub warm_up: usize,
    /// Open a connection for each question, in its time; otherwise one is kept for all.
    pub new_connections: bool,
}

/// Asks, and returns how long each answer took, in the order of the questions.
///
/// # Errors
/// An answer fails to come, or is no "you lead": other answers may take another time.
pub async fn time(timing: &Timing) -> anyhow::Result<Vec<Duration>> {
    let mut connection = Connection::new(&timing.url)?;
    let mut times = Vec::with_capacity(timing.requests);
    for number in 0..timing.warm_up + timing.requests {
        if timing.new_connections {
            connection.close();
            // The task of the old connection closes it now, and not in the time of the next question.
            tokio::task::yield_now().await;
        }
        let asked = Instant::now();
        let reply = connection.get(PATH).await?;
        let time = asked.elapsed();
        let leads = matches!(reply.answer(), Answer::Yes { .. });
        ensure!(leads, "answer {number} is no \"you lead\": {}", String::from_utf8_lossy(&reply.body));
        if number >= timing.warm_up {
            times.push(time);
        }
    }
    Ok(times)
}
