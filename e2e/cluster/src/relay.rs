//! A relay before the API server, in the cluster's own network: what a pod sends there, and what it is answered, comes
//! late, or not before somebody says so. The pod notices nothing but that: no packet is lost for ever, as in a network
//! that is slow or cut off for a while.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{command, output};
use crate::error::{Context, Result};
use crate::layout::API_SERVICE_ADDRESS;

/// How often the listening thread looks whether the relay is still wanted.
const LOOK: Duration = Duration::from_millis(10);
/// The table of rules in the network of a pod whose way leads through the relay.
const TABLE: &str = "conch_relay";
/// The port of the API server's Service.
pub(crate) const API_SERVICE_PORT: u16 = 443;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// They go on at once.
    Pass,
    /// They go on this much later.
    Delay(Duration),
    /// They wait until the treatment changes.
    Hold,
}

/// The two directions of every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// From the pod to the API server.
    pub requests: Treatment,
    /// From the API server to the pod.
    pub answers: Treatment,
}

impl Ways {
    /// Nothing is done to either.
    pub const OPEN: Self = Self { requests: Treatment::Pass, answers: Treatment::Pass };
}

/// Relays until it is dropped; its connections end with it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddrV4,
    shared: Arc<Shared>,
    captured: Mutex<Vec<u32>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ways: Ways,
    ended: bool,
    /// Connections up to this one carry nothing any more.
    silent: usize,
    /// Both ends of every connection that was made.
    connections: Vec<[TcpStream; 2]>,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

type Chunk = (Instant, Vec<u8>);

impl Relay {
    /// Listens in the network of a process, on an address of it, and passes everything on to a server there.
    pub(crate) fn start(process: u32, address: Ipv4Addr, server: SocketAddrV4) -> Result<Self> {
        let state = State { ways: Ways::OPEN, ended: false, silent: 0, connections: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (bound, binding) = mpsc::channel();
        let serving = Arc::clone(&shared);
        // A thread may move into another network, and its children stay there with it; the process does not.
        thread::spawn(move || match listen(process, address) {
            Ok((listener, address)) => {
                let _ = bound.send(Ok(address)); // who asked waits for it
                serving.serve(&listener, server);
            }
            Err(error) => drop(bound.send(Err(error))),
        });
        let bound = binding.recv().unwrap_or_else(|_| Err(io::Error::other("the relay's thread ended")));
        let address = bound.doing(|| format!("cannot relay in the network of process {process}"))?;
        Ok(Self { address, shared, captured: Mutex::default() })
    }

    /// Leads a pod's way to the API server through the relay, from now on; what it has open is reset. The pod is that of
    /// a process.
    pub fn capture(&self, process: u32) -> Result<()> {
        self.capture_some(process, "")
    }

    /// The same for what some of the pod's processes send, in the words of `nft`.
    pub(crate) fn capture_some(&self, process: u32, which: &str) -> Result<()> {
        let address = self.address;
        let service = format!("{which} ip daddr {API_SERVICE_ADDRESS} tcp dport {API_SERVICE_PORT}");
        let rules = format!(
            "table ip {TABLE} {{
                chain conch_lead {{ type nat hook output priority -100; {service} dnat to {address}; }}
                chain conch_reset {{ type filter hook output priority 0; {service} reject with tcp reset; }}
            }}"
        );
        set_rules(process, &rules)?;
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        Ok(())
    }

    /// Treats what is on its way, and all that comes, like this.
    pub fn treat(&self, ways: Ways) {
        self.shared.state().ways = ways;
        self.shared.changed.notify_all();
    }

    /// The connections that are open now stay open and carry nothing any more; new ones are whole.
    pub fn silence(&self) {
        let mut state = self.shared.state();
        state.silent = state.connections.len();
    }

    /// Ends every connection and listens no more, as a proxy that exits: whoever is led here finds nobody.
    pub fn end(&self) {
        let mut state = self.shared.state();
        state.ended = true;
        for stream in state.connections.iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both); // it may be closed already
        }
        self.shared.changed.notify_all();
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections.len()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for process in self.captured.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A pod that is gone took its rules with it.
            let _ = set_rules(process, &format!("delete table ip {TABLE}"));
        }
        self.end();
    }
}

/// Changes the packet rules in the network of a process.
pub(crate) fn set_rules(process: u32, rules: &str) -> Result<()> {
    let network = format!("--net=/proc/{process}/ns/net");
    output(command("nsenter").args([&network, "nft", rules])).map(drop)
}

fn listen(process: u32, address: Ipv4Addr) -> io::Result<(TcpListener, SocketAddrV4)> {
    let network = File::open(Path::new("/proc").join(process.to_string()).join("ns/net"))?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    let listener = TcpListener::bind((address, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, SocketAddrV4::new(address, port)))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, listener: &TcpListener, server: SocketAddrV4) {
        while !self.state().ended {
            match listener.accept() {
                // A connection that cannot be made is closed, as if nothing listened.
                Ok((client, _)) => drop(self.join(client, server)),
                Err(_) => thread::sleep(LOOK),
            }
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream, server: SocketAddrV4) -> io::Result<()> {
        client.set_nonblocking(false)?;
        let server = TcpStream::connect(server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let number = {
            let mut state = self.state();
            state.connections.push([client.try_clone()?, server.try_clone()?]);
            state.connections.len()
        };
        self.carry(number, Direction::Requests, client.try_clone()?, server.try_clone()?);
        self.carry(number, Direction::Answers, server, client);
        Ok(())
    }

    /// One direction of a connection: one thread takes what comes and the time, one passes it on when it is due. So the
    /// sender never notices that its bytes wait.
    fn carry(self: &Arc<Self>, number: usize, direction: Direction, from: TcpStream, to: TcpStream) {
        let (sender, receiver) = mpsc::channel();
        let shared = Arc::clone(self);
        thread::spawn(move || take(from, &sender));
        thread::spawn(move || shared.pass_on(number, direction, to, &receiver));
    }

    fn pass_on(&self, number: usize, direction: Direction, mut to: TcpStream, chunks: &Receiver<Chunk>) {
        for (taken, bytes) in chunks {
            if !self.wait_until_due(number, direction, taken) || to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write); // it may be closed already
    }

    /// Returns true when bytes may go on, and false when they never will.
    fn wait_until_due(&self, number: usize, direction: Direction, taken: Instant) -> bool {
        let mut state = self.state();
        while !state.ended {
            let treatment = match direction {
                Direction::Requests => state.ways.requests,
                Direction::Answers => state.ways.answers,
            };
            let left = match treatment {
                _ if number <= state.silent => None,
                Treatment::Hold => None,
                Treatment::Pass => Some(Duration::ZERO),
                Treatment::Delay(delay) => Some(delay.saturating_sub(taken.elapsed())),
            };
            state = match left {
                Some(Duration::ZERO) => return true,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        false
    }
}

fn take(mut from: TcpStream, chunks: &Sender<Chunk>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if chunks.send((Instant::now(), buffer[..length].to_vec())).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with itself, and a relay before it in this process's own network.
    fn echo() -> (Relay, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.local_addr().unwrap().port());
        thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let mut answers = stream.try_clone().unwrap();
                thread::spawn(move || io::copy(&mut stream, &mut answers));
            }
        });
        let relay = Relay::start(std::process::id(), Ipv4Addr::LOCALHOST, address).unwrap();
        let client = connect(&relay);
        (relay, client)
    }

    fn connect(relay: &Relay) -> TcpStream {
        let client = TcpStream::connect(relay.address).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client
    }

    fn answers(client: &mut TcpStream, byte: u8) -> bool {
        let mut answer = [0];
        client.write_all(&[byte]).unwrap();
        client.read_exact(&mut answer).is_ok() && answer == [byte]
    }

    #[test]
    fn what_is_held_comes_later_and_in_order() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED what_is_held_comes_later_and_in_order: needs root");
            return;
        }
        let (relay, mut client) = echo();
        assert!(answers(&mut client, 1));
        relay.treat(Ways { answers: Treatment::Hold, ..Ways::OPEN });
        assert!(!answers(&mut client, 2) && !answers(&mut client, 3));
        relay.treat(Ways::OPEN);
        let mut late = [0; 2];
        client.read_exact(&mut late).unwrap();
        assert_eq!(late, [2, 3]);
        let delay = Duration::from_millis(100);
        relay.treat(Ways { requests: Treatment::Delay(delay), answers: Treatment::Delay(delay) });
        let began = Instant::now();
        assert!(answers(&mut client, 4));
        assert!(began.elapsed() >= 2 * delay);
    }

    #[test]
    fn silence_befalls_what_is_open_and_not_what_comes() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED silence_befalls_what_is_open_and_not_what_comes: needs root");
            return;
        }
        let (relay, mut client) = echo();
        assert!(answers(&mut client, 1));
        relay.silence();
        assert!(!answers(&mut client, 2));
        let mut new = connect(&relay);
        assert!(answers(&mut new, 3));
        assert_eq!(relay.connections(), 2);
        drop(relay);
        assert_eq!(new.read(&mut [0]).unwrap(), 0, "the relay's end ends its connections");
    }
}
