//! Checks the command's standard input, output and error.
//!
//! The kernel programs see a socket where it was created: one that the caller opened outside and
//! passed as descriptor 0 is a way out that no hook sees (attack K7). Files, terminals, pipes and
//! unix sockets are fine.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::stat::{SFlag, fstat};
use socket2::{Domain, SockRef};

use super::SandboxError;
use super::error::IoContext;

/// Refuses a descriptor that leads out of the sandbox. `name` is its name in messages.
fn check(descriptor: impl AsFd, name: &str) -> Result<(), SandboxError> {
    let status = fstat(&descriptor).context(|| format!("cannot examine {name}"))?;
    let kind = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFSOCK {
        let domain =
            SockRef::from(&descriptor).domain().context(|| format!("cannot examine {name}"))?;
        return if domain == Domain::UNIX {
            Ok(())
        } else {
            Err(SandboxError::Refused(format!(
                "{name} is a network socket that was opened outside the sandbox, where nothing \
                 intercepts it: give the command a file, a pipe or /dev/null"
            )))
        };
    }
    if kind == SFlag::S_IFREG || kind == SFlag::S_IFCHR || kind == SFlag::S_IFIFO {
        return Ok(());
    }
    Err(SandboxError::Refused(format!(
        "{name} is neither a file, a terminal, a pipe nor a unix socket: it could lead out of the \
         sandbox"
    )))
}

/// Refuses standard descriptors of which one leads out of the sandbox.
pub(crate) fn check_all(descriptors: [BorrowedFd<'_>; 3]) -> Result<(), SandboxError> {
    let names = ["standard input", "standard output", "standard error"];
    descriptors.iter().zip(names).try_for_each(|(descriptor, name)| check(descriptor, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn k7_a_network_socket_or_a_directory_as_standard_input_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let packet = socket2::Socket::new(Domain::PACKET, socket2::Type::RAW, None).unwrap();
        let epoll =
            nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap();
        assert!(check(&listener, "0").unwrap_err().to_string().contains("network socket"));
        assert!(check(&stream, "0").is_err());
        assert!(check(std::net::UdpSocket::bind("[::1]:0").unwrap(), "0").is_err());
        assert!(check(&packet, "0").is_err());
        assert!(check(&epoll.0, "0").is_err());
        assert!(check(File::open("/").unwrap(), "0").is_err());
    }

    #[test]
    fn files_terminals_pipes_and_unix_sockets_are_accepted() {
        check(tempfile::tempfile().unwrap(), "0").unwrap();
        check(File::open("/dev/null").unwrap(), "0").unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        check(&reader, "0").unwrap();
        check(&writer, "1").unwrap();
        check(std::os::unix::net::UnixStream::pair().unwrap().0, "0").unwrap();
    }
}
