//! A timer on the clock of deadlines, which goes on while the machine is suspended.

use conch_stores::clock;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::{
    fs::File,
    io::{self, ErrorKind},
    time::Duration,
};
use tokio::net::unix::pipe::Receiver;

/// Wakes at a point on `CLOCK_BOOTTIME`.
#[derive(Debug)]
pub struct Timer {
    /// Not a pipe, but read like one: it becomes readable when the time has come.
    timer: Receiver,
}

/// `CLOCK_BOOTTIME`.
pub fn boottime() -> Duration {
    clock::now().boottime
}

impl Timer {
    /// Must be called inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self { timer: Receiver::from_file_unchecked(File::from(timer))? })
    }

    /// Completes at this point, at once if it is past. Cancel safe.
    pub async fn sleep_until(&mut self, point: Duration) -> io::Result<()> {
        // A value of zero would stop the timer.
        let point = point.max(Duration::from_nanos(1));
        let value = Timespec::try_from(point).map_err(io::Error::other)?;
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec { it_interval: interval, it_value: value },
        )?;
        while boottime() < point {
            self.timer.readable().await?;
            match self.timer.try_read(&mut [0; 8]) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {} // how often it expired, or nothing yet: the clock tells
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_wakes_at_its_point_and_not_before_and_a_point_in_the_past_is_now() {
        let mut timer = Timer::new().unwrap();
        for wait in [20, 0, 30] {
            let point = boottime() + Duration::from_millis(wait);
            timer.sleep_until(point).await.unwrap();
            assert!(boottime() >= point && boottime() < point + Duration::from_secs(5));
        }
        timer.sleep_until(Duration::ZERO).await.unwrap();
    }
}
