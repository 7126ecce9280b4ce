//! Private database servers: in a folder of their own, on a socket in it, ended when dropped and with this process.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::prerequisites::postgres_programs;
use crate::resource;

const START_LIMIT: Duration = Duration::from_secs(30);

/// A PostgreSQL server.
#[derive(Debug)]
pub(crate) struct PostgresServer {
    process: Process,
    directory: TempDir,
}

/// A Redis server.
#[derive(Debug)]
pub(crate) struct RedisServer {
    _process: Process,
    directory: TempDir,
}

/// A process that ends when this value is dropped. It also ends with the thread that started it, so that nothing is left
/// of a test that was killed.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl PostgresServer {
    /// Makes an empty database and serves it.
    pub(crate) fn start() -> Result<Self> {
        let programs = postgres_programs().context("PostgreSQL is not installed")?;
        let directory = directory_of("postgres")?;
        let data = directory.path().join("data");
        let mut create = as_user("postgres", &programs.join("initdb"));
        create.args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        let output =
            create.arg(&data).current_dir(directory.path()).output().context("failed to run initdb")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let mut serve = as_user("postgres", &programs.join("postgres"));
        serve.arg("-D").arg(&data).arg("-k").arg(directory.path());
        // Nothing survives the test, so that nothing need reach the disk.
        serve.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        serve.stdout(Stdio::null()).stderr(log(&directory, "log")?).current_dir(directory.path());
        let process = Process::start(&mut serve)?;
        let mut server = Self { process, directory };
        let address = server.address("postgres");
        server.process.wait_until(&|runtime| runtime.block_on(resource::sql(&address)).is_ok())?;
        Ok(server)
    }

    /// How a database of it is reached.
    pub(crate) fn address(&self, database: &str) -> String {
        format!("host={} user=postgres dbname={database}", self.directory.path().display())
    }

    /// Makes one more database and returns its address.
    pub(crate) async fn new_database(&self, name: &str) -> Result<String> {
        let client = resource::sql(&self.address("postgres")).await?;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        Ok(self.address(name))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // "Immediate shutdown": the server ends its own children.
        let _ = self.process.signal(Signal::QUIT);
        let _ = self.process.0.wait();
    }
}

impl RedisServer {
    /// Serves an empty database.
    pub(crate) fn start() -> Result<Self> {
        let directory = directory_of("redis")?;
        let mut serve = as_user("redis", Path::new("redis-server"));
        serve.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        serve.arg(directory.path().join("socket")).current_dir(directory.path());
        let mut process = Process::start(serve.stdout(log(&directory, "log")?).stderr(Stdio::null()))?;
        let address = address_of_redis(&directory, 0);
        process.wait_until(&|runtime| runtime.block_on(resource::redis(&address)).is_ok())?;
        Ok(Self { _process: process, directory })
    }

    /// How one of its 16 databases is reached.
    pub(crate) fn address(&self, database: usize) -> String {
        address_of_redis(&self.directory, database)
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("failed to start {command:?}"))?))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.0), signal).context("failed to send a signal")
    }

    fn wait_until(&mut self, ready: &dyn Fn(&Runtime) -> bool) -> Result<()> {
        let (runtime, began) = (new_runtime()?, Instant::now());
        while !ready(&runtime) {
            if let Some(status) = self.0.try_wait()? {
                bail!("the server ended: {status}");
            }
            ensure!(began.elapsed() < START_LIMIT, "the server does not answer after {START_LIMIT:?}");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A runtime on this thread.
pub(crate) fn new_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The command that ends with the thread that starts it.
pub(crate) fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same as an unprivileged user, if this process is root: databases refuse to run as root.
fn as_user(user: &str, program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return mortal(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL", "--"])
        .arg(program);
    command
}

/// A folder that only the server's user, and root, can enter.
fn directory_of(user: &str) -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("conch-fencing-").tempdir()?;
    if rustix::process::geteuid().is_root() {
        chown(directory.path(), Some(uid(user)?), None)?;
    }
    Ok(directory)
}

fn uid(user: &str) -> Result<u32> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.split(':').next() == Some(user));
    let id = line.and_then(|line| line.split(':').nth(2)?.parse().ok());
    id.with_context(|| format!("there is no user {user}"))
}

pub(crate) fn log(directory: &TempDir, name: &str) -> Result<Stdio> {
    Ok(fs::File::create(directory.path().join(name))?.into())
}

fn address_of_redis(directory: &TempDir, database: usize) -> String {
    format!("redis+unix://{}/socket?db={database}", directory.path().display())
}
