//! Real PostgreSQL servers from packages, each in a folder of its own, reached by a socket in it.

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

const START_LIMIT: Duration = Duration::from_mins(1);
/// Where Debian's packages put each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Who asks for a password; everybody else is trusted.
pub(crate) const GUARDED: &str = "guarded";
pub(crate) const PASSWORD: &str = "s3cr3t-of-the-test";

/// Ends the server and removes its folder when this process ends, however it does.
const KEEPER: &str = r#"
    trap 'kill -QUIT $server 2>/dev/null; wait; rm -rf "$1"; exit' TERM
    "$2" -D "$1/data" -k "$1" $3 2>>"$1/log" & server=$!
    echo $server >"$1/pid"
    wait $server
"#;

/// A server, or the folder of one that is stopped.
pub(crate) struct Server {
    directory: TempDir,
    arguments: String,
    port: u16,
    keeper: Mutex<Option<Child>>,
}

/// The folder with the server's programs; `None`: it is not installed.
pub(crate) fn programs() -> Option<PathBuf> {
    let complete = |folder: &Path| {
        ["initdb", "postgres", "psql", "pg_basebackup"].iter().all(|program| folder.join(program).is_file())
    };
    let packaged =
        fs::read_dir(VERSIONS).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let in_path: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    packaged.chain(in_path).filter(|folder| complete(folder)).max()
}

/// A server that all tests of this process share.
pub(crate) fn shared() -> Option<&'static Server> {
    static SHARED: OnceLock<Option<Server>> = OnceLock::new();
    SHARED.get_or_init(|| programs().map(|_| Server::start(""))).as_ref()
}

impl Server {
    /// Makes an empty database system and serves it; more arguments go to the server.
    pub(crate) fn start(arguments: &str) -> Self {
        let programs = programs().expect("PostgreSQL is not installed");
        let server = Self::folder(arguments);
        let mut initdb = as_postgres(&programs.join("initdb"));
        initdb.args([
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ]);
        run(initdb.arg(server.data()));
        let rules = format!(
            "local all {GUARDED} scram-sha-256\nhost all {GUARDED} 127.0.0.1/32 scram-sha-256\n\
             local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\n"
        );
        fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
        server.serve();
        server
    }

    /// Serves this port of the machine as well, with more arguments, from the next start on.
    pub(crate) fn listen(&mut self, port: u16, arguments: &str) {
        self.port = port;
        self.arguments = format!("-c listen_addresses=127.0.0.1 -c port={port} {arguments}");
    }

    /// A standby of this server, which follows it as soon as it is served.
    pub(crate) fn standby(&self) -> Self {
        let standby = Self::folder(&self.arguments);
        let mut backup = as_postgres(&programs().unwrap().join("pg_basebackup"));
        backup.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--wal-method=stream"]);
        run(backup.args(["-U", "postgres", "-h"]).arg(self.directory.path()).arg("-D").arg(standby.data()));
        standby
    }

    fn folder(arguments: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("conch-pg-").tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(postgres_uid()), None).unwrap();
        }
        Self { directory, arguments: arguments.to_owned(), port: 5_432, keeper: Mutex::default() }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The socket in the server's folder.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// Starts it and waits until it answers.
    pub(crate) fn serve(&self) {
        let program = programs().unwrap().join("postgres");
        // A keeper ends with the thread that starts it: one that lives as long as this process.
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut command = as_postgres(Path::new("sh"));
        command.args(["-c", KEEPER, "sh"]).arg(self.directory.path()).arg(program);
        command
            .arg(format!("-c listen_addresses= {}", self.arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        thread::spawn(move || {
            sender.send(command.spawn().unwrap()).unwrap();
            loop {
                thread::park();
            }
        });
        *self.keeper.lock().unwrap() = Some(receiver.recv().unwrap());
        let began = Instant::now();
        while !self.answers() {
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < START_LIMIT, "the server does not answer: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        let mut ask = Command::new(programs().expect("PostgreSQL is not installed").join("psql"));
        ask.arg("-h").arg(self.directory.path()).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-qAtc",
            "SELECT 1",
        ]);
        ask.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Kills it, or lets it end by itself, and waits until it is gone.
    pub(crate) fn stop(&self, signal: &str) {
        self.signal(signal);
        let Some(mut keeper) = self.keeper.lock().unwrap().take() else { return };
        keeper.wait().unwrap();
        let _ = fs::remove_file(self.socket());
        let began = Instant::now();
        while !self.processes().is_empty() {
            assert!(began.elapsed() < START_LIMIT, "processes of the server are left");
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Sends a signal to the main process, or a stop to all of them.
    pub(crate) fn signal(&self, signal: &str) {
        let pids = if ["STOP", "CONT"].contains(&signal) { self.processes() } else { vec![self.pid()] };
        for pid in pids {
            let _ = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap();
        }
    }

    fn pid(&self) -> u32 {
        fs::read_to_string(self.directory.path().join("pid")).unwrap().trim().parse().unwrap()
    }

    /// The main process and all that work in its folder.
    fn processes(&self) -> Vec<u32> {
        let data = self.data();
        let pids = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data)).collect()
    }

    /// A copy of a stopped server's data.
    pub(crate) fn copy_data(&self, to: &str) {
        run(as_postgres(Path::new("cp")).arg("-a").arg(self.data()).arg(self.directory.path().join(to)));
    }

    /// Puts a copy in the place of a stopped server's data.
    pub(crate) fn restore_data(&self, from: &str) {
        fs::remove_dir_all(self.data()).unwrap();
        fs::rename(self.directory.path().join(from), self.data()).unwrap();
    }

    /// The hands of an administrator.
    pub(crate) async fn administrator(&self) -> Client {
        self.client("postgres").await
    }

    pub(crate) async fn client(&self, user: &str) -> Client {
        let address = format!(
            "host={} port={} user={user} dbname=postgres",
            self.directory.path().display(),
            self.port
        );
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut keeper) = self.keeper.lock().unwrap().take() else { return };
        self.signal("CONT");
        self.signal("QUIT");
        let _ = keeper.wait();
    }
}

/// Databases refuse to run as root.
pub(crate) fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "TERM", "--"]).arg(program).current_dir("/");
    command
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn postgres_uid() -> u32 {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("there is no user postgres");
    line.split(':').nth(2).unwrap().parse().unwrap()
}
