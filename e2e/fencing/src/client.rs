//! A program that leads, as docs/sidecar.md asks of it: it reads the clock before it asks, acts until the deadline, checks
//! the deadline before each step, makes no step longer than `stopGrace`, and passes the token on.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Result;
use conch_probe::{Answer, Connection, now};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::history::{Entry, Event, Outcome};
use crate::resource::{Guard, Reply, Resource};

/// Without an answer after this time it believes that it does not lead.
const PATIENCE: Duration = Duration::from_millis(500);
/// From one question to the next.
const REST: Duration = Duration::from_millis(10);
/// What it computes between reading and writing, far below `stopGrace`. The tests stop it in this time.
pub const WORK: Duration = Duration::from_millis(50);

/// What to do.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Base URL of the sidecar.
    #[arg(long, env = "CONCH_URL")]
    url: String,
    /// Where the set is and what guards it.
    #[arg(long)]
    guard: Guard,
    /// Address of the database.
    #[arg(long)]
    address: String,
    /// Begins the name of each element.
    #[arg(long)]
    name: String,
}

struct Program {
    options: Options,
    sidecar: Connection,
    database: Option<Resource>,
    appended: usize,
}

/// Appends while it leads, until SIGTERM comes.
///
/// # Errors
/// The URL is malformed, or nobody reads what it writes down.
pub async fn run(options: Options) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let sidecar = Connection::new(&options.url)?;
    let mut program = Program { options, sidecar, database: None, appended: 0 };
    loop {
        if let Some((token, deadline)) = program.ask().await
            && now() < deadline
            && let Err(error) = program.append(&token).await
        {
            eprintln!("{error:#}");
            program.database = None;
        }
        // A step that has begun is always finished: the tests want to know how it ended.
        if timeout(REST, terminated.recv()).await.is_ok() {
            return Ok(());
        }
    }
}

impl Program {
    /// The token and the deadline, if this pod leads.
    async fn ask(&mut self) -> Option<(String, u64)> {
        let asked = now();
        let Ok(Ok(reply)) = timeout(PATIENCE, self.sidecar.get("/v1/leader")).await else {
            self.sidecar.close();
            return None;
        };
        let Answer::Yes { valid_for, token, .. } = reply.answer() else { return None };
        Some((format!("{token:020}"), asked.saturating_add(u64::try_from(valid_for.as_nanos()).ok()?)))
    }

    /// One step: read, work, write.
    async fn append(&mut self, token: &str) -> Result<()> {
        let mut database = match self.database.take() {
            Some(database) => database,
            None => Resource::open(self.options.guard, &self.options.address).await?,
        };
        let Reply::Done(mut set) = database.read(token).await? else {
            self.database = Some(database);
            return say(&Event::TurnedAway);
        };
        self.appended += 1;
        let element = format!("{}-{}", self.options.name, self.appended);
        let entry = Entry { number: set.len() + 1, element: element.clone() };
        say(&Event::Read(entry.clone()))?;
        sleep(WORK).await;
        set.push(element);
        match database.write(token, &set).await {
            Ok(reply) => {
                self.database = Some(database);
                let outcome = if reply == Reply::Stale { Outcome::Refused } else { Outcome::Acknowledged };
                say(&Event::Ended(outcome, entry))
            }
            Err(error) => {
                say(&Event::Ended(Outcome::Unknown, entry))?;
                Err(error)
            }
        }
    }
}

fn say(event: &Event) -> Result<()> {
    let mut out = io::stdout();
    out.write_all(format!("{event}\n").as_bytes())?;
    Ok(out.flush()?)
}
