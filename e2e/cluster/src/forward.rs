//! The API server's port on the loopback interface outside of the cluster's namespaces.
//!
//! A socket belongs to the network namespace in which it was made, whoever holds it. `up` makes the
//! listening socket outside and hands it to the supervisor, which accepts connections from it and dials
//! the API server in its own namespace: no other process, and no thread that changes its namespace.
//! While the API server is dead, the socket does not listen, so that clients see what they would see of a
//! dead server: a refused connection.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::net::{Shutdown as Ends, listen, shutdown, sockopt};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening socket on a loopback port: the given one if it is free, otherwise any.
pub(crate) fn bind(wanted: Option<u16>) -> io::Result<TcpListener> {
    let again = wanted.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    if let Some(Ok(listener)) = again {
        return Ok(listener);
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    // A socket whose port the kernel chose would lose it when it is closed for a while.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Lets the socket refuse connections, if it does not yet; it keeps its port.
pub(crate) fn close(listener: &TcpListener) -> io::Result<()> {
    // Shut down twice, it would hand on its shut end to all later connections.
    if sockopt::socket_acceptconn(listener)? {
        shutdown(listener, Ends::Read)?;
    }
    Ok(())
}

/// Lets the socket listen again.
pub(crate) fn open(listener: &TcpListener) -> io::Result<()> {
    Ok(listen(listener, BACKLOG)?)
}

/// The listening socket that was handed over as standard input.
pub(crate) fn inherited_listener() -> io::Result<TcpListener> {
    Ok(TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Accepts for ever and joins each connection to a port of this namespace.
pub(crate) fn serve(listener: &TcpListener, port: u16) {
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                thread::spawn(move || {
                    // A connection that cannot be made is closed, as if nothing listened.
                    let _ = join(&client, port);
                });
            }
            // It is closed for now, or there are too many open files: a later attempt may do better.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn join(client: &TcpStream, port: u16) -> io::Result<()> {
    let server = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

/// Copies one direction to its end, and passes the end on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    if io::copy(&mut from, &mut to).is_err() {
        // The other direction would wait for ever.
        let _ = from.shutdown(Shutdown::Both);
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_closed_socket_refuses_and_listens_again_on_its_port() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let outside = bind(None).unwrap();
        let address = outside.local_addr().unwrap();
        let accepting = outside.try_clone().unwrap();
        thread::spawn(move || serve(&accepting, port));
        TcpStream::connect(address).unwrap();
        server.accept().unwrap();
        close(&outside).unwrap();
        close(&outside).unwrap();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        open(&outside).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (mut inner, _) = server.accept().unwrap();
        client.write_all(b"x").unwrap();
        inner.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn both_directions_and_the_end_are_passed_on() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = outside.local_addr().unwrap();
        thread::spawn(move || serve(&outside, port));
        thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            let mut text = String::new();
            connection.read_to_string(&mut text).unwrap();
            connection.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "HELLO");
    }
}
