//! The machine, in the words of a reader who wants to compare: no names, no paths.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::statistics::{Times, show};

const SYNCS: usize = 200;

/// What the numbers depend on.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Writing 4 KiB to the disk of etcd.
    pub(crate) sync: Times,
    /// Processes that wanted to run before the benchmark began, averaged over a minute.
    pub(crate) load: f64,
}

impl Machine {
    /// Describes this one; `directory` is on the disk of etcd.
    pub(crate) fn describe(directory: &Path) -> Result<Self> {
        let processors = read("/proc/cpuinfo")?;
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("unknown processor", |(_, model)| model);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory = read("/proc/meminfo")?;
        let kib = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse::<u64>().ok());
        let release = read("/proc/sys/kernel/osrelease")?;
        let load = read("/proc/loadavg")?;
        Ok(Self {
            processor: format!("{model}, {cores} cores"),
            memory_gib: kib.unwrap_or(0).div_ceil(1024 * 1024),
            kernel: release.split('-').next().unwrap_or_default().trim().to_owned(),
            sync: syncs(directory)?,
            load: load.split(' ').next().unwrap_or_default().parse().unwrap_or(0.0),
        })
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let sync = |percent| self.sync.percentile(percent).map_or_else(|| "–".to_owned(), show);
        format!(
            "{}, {} GiB of memory, Linux {}; a synchronous write of 4 KiB takes {} (p50), {} (p99); load average before: {:.1}",
            self.processor,
            self.memory_gib,
            self.kernel,
            sync(50),
            sync(99),
            self.load
        )
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {path}"))
}

fn syncs(directory: &Path) -> Result<Times> {
    let path = directory.join("sync-test");
    let mut file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(times.into_iter().collect::<Times>())
}

/// Since the benchmark began, for people.
pub(crate) fn minutes(time: Duration) -> String {
    format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
}
