//! The new daemon's side of a takeover.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interceptor_policy::Problem;
use jiff::Timestamp;

use super::{
    HandedMember, PATIENCE, PROTOCOL, TakeoverError, TakeoverReply, TakeoverRequest, VERSION,
};
use crate::accept;
use crate::entrance::{Entrance, HandedEntrance};
use crate::fleet::{
    Enforced, Fleet, LoadedPolicy, Member, MemberDescription, Pins, Predecessor, Source,
};
use crate::ipc::ControlSocket;
use crate::kernel::{Attachment, Inherited, LAYOUT};
use crate::proxy::{HandedNames, HandedSandbox};
use crate::sandbox::handover::Channel;
use crate::seam::Listeners;

/// Maximum response head, in bytes.
const LONGEST_HEAD: usize = 8 * 1024;
/// Maximum number of sandboxes, and of program sets.
const MOST: usize = 1 << 16;

/// A connection to a daemon that is ready to hand over.
#[derive(Debug)]
pub(crate) struct Connected(Channel);

/// TakeoverRequest the daemon at a control socket to hand over. `None` if there is none.
///
/// # Errors
/// If it refuses or cannot be reached.
pub(crate) fn connect(control: &Path) -> Result<Option<Connected>, TakeoverError> {
    let mut stream = match UnixStream::connect(control) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST /v1/takeover HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: \
         {PROTOCOL}\r\ncontent-length: 0\r\n\r\n"
    )?;
    // Read byte by byte: a larger read would lose the descriptors of the messages that follow the
    // head.
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        let line =
            String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default())
                .into_owned();
        return Err(TakeoverError::Refused(format!("it answers {}", line.escape_debug())));
    }
    Ok(Some(Connected(Channel::from_descriptor(stream.into()))))
}

/// A sandbox that is prepared here, while the old daemon still serves it.
struct PreparedSandbox {
    id: Arc<str>,
    cgroup: PathBuf,
    trust: PathBuf,
    times: (Timestamp, Option<Timestamp>),
    rules: LoadedPolicy,
    proxy: HandedSandbox,
    names: HandedNames,
    listeners: Listeners,
    attachment: Attachment,
    pins: Pins,
    set: usize,
}

/// Takes everything over into an empty fleet. When it returns, this daemon serves the sandboxes and
/// the old one is about to end. Blocks; call it within a tokio runtime.
///
/// # Errors
/// If anything cannot be taken over; the old daemon then keeps everything.
pub(crate) fn take(
    connected: Connected,
    fleet: &Arc<Fleet>,
    control: &Path,
    page: Option<SocketAddr>,
) -> Result<(ControlSocket, Option<Entrance>), TakeoverError> {
    let Connected(channel) = connected;
    channel.set_patience(Some(PATIENCE))?;
    let Received { listener, inherited, prepared, entrance } = heard(&channel, fleet, page)?;
    // Nobody accepts now; new connections wait in the listeners' queues. On a failure below, the
    // old daemon resumes.
    let mut serving = Vec::with_capacity(prepared.len());
    for member in prepared {
        let id = member.id.to_string();
        serving.push(
            serve(member, fleet, &inherited).map_err(|why| TakeoverError::Member { id, why })?,
        );
    }
    let socket = ControlSocket::inherit(UnixListener::from(listener), control)
        .map_err(|error| TakeoverError::Refused(error.to_string()))?;
    let taken =
        channel.send(&TakeoverRequest::Serving, &[]).map_err(TakeoverError::from).and_then(|()| {
            match hear(&channel)? {
                (TakeoverReply::Yours, _) => Ok(()),
                _ => Err(TakeoverError::Unexpected("expected Yours")),
            }
        });
    if let Err(error) = taken {
        // The socket file still belongs to the other daemon.
        socket.hand_over();
        return Err(error);
    }
    fleet.follow(Predecessor::at(channel));
    for (member, mut enforced) in serving {
        enforced.take_ownership();
        let (created, changed) = member.times;
        let known = MemberDescription {
            id: member.id.clone(),
            cgroup: member.cgroup,
            cgroup_id: enforced.kernel().0.cgroup_id(),
            trust: member.trust,
            base_urls: fleet.base_urls(),
            shown: member.shown,
            warnings: member.warnings,
            source: member.source,
            created,
            changed,
            run: None,
        };
        fleet.adopt(&member.id, |feed| Member::new(known, enforced, feed));
    }
    Ok((socket, entrance))
}

/// What came before the other daemon pauses.
struct Received {
    /// The control socket.
    listener: OwnedFd,
    /// The program sets.
    inherited: Vec<Inherited>,
    /// The sandboxes.
    prepared: Vec<PreparedSandbox>,
    /// The page, if there is to be one.
    entrance: Option<Entrance>,
}

/// The page at the address that is asked for: the other daemon's with its sessions, if it has one
/// there.
fn page_at(
    asked: SocketAddr,
    handed: Option<HandedEntrance>,
    sockets: Vec<OwnedFd>,
) -> Result<Entrance, TakeoverError> {
    match (handed, <[OwnedFd; 2]>::try_from(sockets)) {
        (Some(handed), Ok(sockets)) if handed.address == asked => {
            Ok(Entrance::inherit(handed, sockets))
        }
        _ => Entrance::bind(asked).map_err(TakeoverError::Page),
    }
}

/// Receives everything up to the moment the other daemon pauses.
fn heard(
    channel: &Channel,
    fleet: &Arc<Fleet>,
    page: Option<SocketAddr>,
) -> Result<Received, TakeoverError> {
    channel.send(&TakeoverRequest::Hello { version: VERSION, layout: LAYOUT }, &[])?;
    let (TakeoverReply::Begin { sets, members, page: handed }, descriptors) = hear(channel)? else {
        return Err(TakeoverError::Unexpected("expected Begin"));
    };
    if sets > MOST || members > MOST {
        return Err(TakeoverError::Unexpected("too many sandboxes"));
    }
    let mut descriptors = descriptors.into_iter();
    let listener = descriptors.next().ok_or(TakeoverError::Unexpected("no control socket"))?;
    // Now, while the other daemon can still go on.
    let entrance = page.map(|asked| page_at(asked, handed, descriptors.collect())).transpose()?;
    let mut inherited = Vec::with_capacity(sets);
    for _ in 0..sets {
        let (TakeoverReply::Set, maps) = hear(channel)? else {
            return Err(TakeoverError::Unexpected("expected Set"));
        };
        let set = fleet
            .enforcer()
            .inherit(maps)
            .map_err(|error| TakeoverError::Refused(format!("its maps cannot be used: {error}")))?;
        inherited.push(set);
    }
    let mut prepared = Vec::with_capacity(members);
    for _ in 0..members {
        let (TakeoverReply::Member(handed), descriptors) = hear(channel)? else {
            return Err(TakeoverError::Unexpected("expected Member"));
        };
        let id = handed.id.clone();
        let ready = prepare(*handed, descriptors, fleet, &inherited);
        prepared.push(ready.map_err(|why| TakeoverError::Member { id, why })?);
    }

    channel.send(&TakeoverRequest::Ready, &[])?;
    loop {
        match hear(channel)? {
            (TakeoverReply::Names { member, names }, _) => {
                let member = prepared
                    .get_mut(member)
                    .ok_or(TakeoverError::Unexpected("names of an unknown sandbox"))?;
                member.names.extend(names);
            }
            (TakeoverReply::Paused, _) => break,
            _ => return Err(TakeoverError::Unexpected("expected Names")),
        }
    }
    Ok(Received { listener, inherited, prepared, entrance })
}

/// What a member is built from.
struct Serves {
    id: Arc<str>,
    cgroup: PathBuf,
    trust: PathBuf,
    times: (Timestamp, Option<Timestamp>),
    shown: serde_json::Value,
    warnings: Vec<Problem>,
    source: Source,
}

fn prepare(
    handed: HandedMember,
    descriptors: Vec<OwnedFd>,
    fleet: &Fleet,
    inherited: &[Inherited],
) -> Result<PreparedSandbox, String> {
    crate::fleet::check_id(&handed.id).map_err(|error| error.to_string())?;
    let mut proxy = handed.proxy;
    let source = match handed.source {
        Some(path) => Source::File { path: path.0, text: handed.source_text },
        None => Source::Given,
    };
    let text = handed.policy.to_string();
    let rules = LoadedPolicy::with_keys(&text, &[], source, fleet.compiling(), |policy| {
        proxy
            .keyring_with(policy, fleet.compiling().sources)
            .map_err(|why| vec![Problem::new("", why)])
    });
    let rules = rules.map_err(|error| error.to_string())?;
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(|| "a socket is missing".to_owned());
    let (tcp4, dns4) = (TcpListener::from(next()?), UdpSocket::from(next()?));
    let (tcp6, dns6) = if handed.has_v6 {
        (Some(TcpListener::from(next()?)), Some(UdpSocket::from(next()?)))
    } else {
        (None, None)
    };
    let lock = std::fs::File::from(next()?);
    let listeners = Listeners { tcp4, tcp6, dns4, dns6, self_test_token: proxy.token().to_owned() };
    let set = inherited.get(handed.set).ok_or("its programs are missing")?;
    // If the cgroup is gone by now, the watcher notices once the sandbox is served.
    let cgroup = std::fs::File::open(&handed.cgroup.0).ok();
    let cgroup =
        cgroup.filter(|found| found.metadata().is_ok_and(|found| found.ino() == handed.cgroup_id));
    let attachment = set.attachment(handed.cgroup_id, &handed.pins.0, cgroup.map(OwnedFd::from));
    let attachment = attachment.map_err(|error| error.to_string())?;
    let time = |text: &str| text.parse::<Timestamp>().map_err(|error| error.to_string());
    Ok(PreparedSandbox {
        id: handed.id.into(),
        cgroup: handed.cgroup.0,
        trust: handed.trust.0,
        times: (time(&handed.created)?, Some(time(&handed.changed)?)),
        rules,
        proxy,
        names: HandedNames::default(),
        listeners,
        attachment,
        pins: Pins::inherit(handed.base.0, lock),
        set: handed.set,
    })
}

fn serve(
    member: PreparedSandbox,
    fleet: &Fleet,
    inherited: &[Inherited],
) -> Result<(Serves, Enforced), String> {
    let PreparedSandbox {
        id,
        cgroup,
        trust,
        times,
        rules,
        proxy,
        names,
        listeners,
        attachment,
        pins,
        set,
    } = member;
    let LoadedPolicy { policy, keyring, shown, warnings, source } = rules;
    let sandbox = proxy
        .restore(names, fleet.runtime(), &id, policy, keyring)
        .map_err(|error| error.to_string())?;
    let destinations = inherited.get(set).ok_or("its programs are missing")?.destinations();
    let serving = sandbox
        .take_over(listeners, destinations, accept::accept)
        .map_err(|error| error.to_string())?;
    Ok((
        Serves { id, cgroup, trust, times, shown, warnings, source },
        Enforced::inherit(serving, attachment, pins),
    ))
}

fn hear(channel: &Channel) -> Result<(TakeoverReply, Vec<OwnedFd>), TakeoverError> {
    match channel.receive::<TakeoverReply>()? {
        Some((TakeoverReply::Refused(why), _)) => Err(TakeoverError::Refused(why)),
        Some(told) => Ok(told),
        None => Err(TakeoverError::Lost(io::ErrorKind::UnexpectedEof.into())),
    }
}
