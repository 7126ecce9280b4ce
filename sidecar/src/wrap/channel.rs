//! What the wrapper and the guard of its program tell each other, over a pair of sockets that nobody else has.
//!
//! One line is one message. With the first byte the wrapper hands over open files: its standard input, which is meant for
//! the program, and the lock of the instance, so that nobody else runs as this instance while either of the two lives.

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
    process::Signal,
};
use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    str::FromStr,
    time::Duration,
};

/// At most so many files are handed over.
const FILES_MAX: usize = 2;

/// What comes with the files: a message that says nothing.
const GREETING: u8 = b'\n';

const EXITED: &str = "exited";
const ENDED: &str = "ended";

/// What the wrapper tells the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The program may run until this point on `CLOCK_BOOTTIME`. A deadline is only ever put off.
    Until(Duration),
    /// The lead is lost: end the program.
    End,
    /// Pass this signal on.
    Signal(Signal),
}

/// What the guard tells the wrapper: the program and everything that it started are dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code of the program; 128 and the signal's number if one killed it.
    pub code: u8,
    /// The guard did not end it.
    pub by_itself: bool,
}

/// A line that is no message: the two processes are not of the same build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message: {0:?}")]
pub struct Unknown(pub String);

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(deadline) => write!(formatter, "until {}", deadline.as_nanos()),
            Self::End => formatter.write_str("end"),
            Self::Signal(signal) => write!(formatter, "signal {}", signal.as_raw()),
        }
    }
}

impl FromStr for Order {
    type Err = Unknown;

    fn from_str(line: &str) -> Result<Self, Unknown> {
        let (word, number) = line.split_once(' ').unwrap_or((line, ""));
        let order = match word {
            "until" => number.parse().ok().map(|deadline| Self::Until(Duration::from_nanos(deadline))),
            "end" => Some(Self::End),
            "signal" => number.parse().ok().and_then(Signal::from_named_raw).map(Self::Signal),
            _ => None,
        };
        order.ok_or_else(|| Unknown(line.to_owned()))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", if self.by_itself { EXITED } else { ENDED }, self.code)
    }
}

impl FromStr for Ended {
    type Err = Unknown;

    fn from_str(line: &str) -> Result<Self, Unknown> {
        let (word, code) = line.split_once(' ').unwrap_or((line, ""));
        let by_itself = word == EXITED;
        let code = code.parse().ok().filter(|_| by_itself || word == ENDED);
        code.map(|code| Self { code, by_itself }).ok_or_else(|| Unknown(line.to_owned()))
    }
}

/// Hands these files over: the first thing that is sent.
pub fn send_files(socket: &UnixStream, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files to hand over"));
    }
    sendmsg(socket.as_fd(), &[IoSlice::new(&[GREETING])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the files over, in order; none if none were sent.
pub fn receive_files(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut greeting = [0];
    // Nothing that the program inherits by accident: the lock would live as long as its longest-lived process.
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut greeting)], &mut control, flags)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok(files.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_one_side_says_the_other_understands() {
        let orders =
            [Order::Until(Duration::from_nanos(1_234_567_890_123)), Order::End, Order::Signal(Signal::HUP)];
        for order in orders {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        for ended in [Ended { code: 0, by_itself: true }, Ended { code: 255, by_itself: false }] {
            assert_eq!(ended.to_string().parse(), Ok(ended));
        }
        for line in ["", "until", "until x", "signal 0", "signal 999", "endless"] {
            assert_eq!(line.parse::<Order>(), Err(Unknown(line.to_owned())));
        }
        for line in ["", "ended", "ended x", "ended 256", "exited 0 0", "left 0"] {
            assert_eq!(line.parse::<Ended>(), Err(Unknown(line.to_owned())));
        }
    }

    #[test]
    fn files_are_handed_over_with_the_greeting_alone() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut given, kept) = UnixStream::pair().unwrap();
        send_files(&ours, &[kept.as_fd(), kept.as_fd()]).unwrap();
        drop(kept);
        (&ours).write_all(b"end\n").unwrap();
        let mut files = receive_files(&theirs).unwrap();
        assert_eq!(files.len(), 2);
        UnixStream::from(files.remove(0)).write_all(b"x").unwrap();
        let mut bytes = [0; 4];
        given.read_exact(&mut bytes[..1]).unwrap();
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"end\n");
    }

    #[test]
    fn a_wrapper_that_is_gone_hands_nothing_over() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert_eq!(receive_files(&theirs).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
