//! The old daemon's side of a takeover.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{HandedMember, PATIENCE, TakeoverError, TakeoverReply, TakeoverRequest, VERSION};
use crate::entrance::Entrance;
use crate::fleet::{Enforced, Fleet, Member, Source};
use crate::ipc::{ControlSocket, SentPath};
use crate::kernel::LAYOUT;
use crate::proxy::HandedNames;
use crate::sandbox::handover::Channel;

/// Placeholder for a key in a document; keys travel separately.
const NO_KEY: &str = "handed-over-beside-it";
/// Names per message; even the longest names then stay within the message limit.
const AT_ONCE: usize = 8192;
/// Leases per message, each with a patch of some kilobytes at most.
const LEASES_AT_ONCE: usize = 4;

/// Hands everything over to the peer, then makes this daemon end: it gets SIGTERM, and
/// [`ControlSocket::is_handed`] says why. Blocks. On error everything continues as before.
///
/// # Errors
/// If the takeover fails.
pub(crate) fn give(
    stream: UnixStream,
    fleet: &Arc<Fleet>,
    socket: &Arc<ControlSocket>,
    entrance: Option<&Entrance>,
) -> Result<(), TakeoverError> {
    let channel = Channel::from_descriptor(stream.into());
    channel.set_patience(Some(PATIENCE))?;
    match hear(&channel)? {
        TakeoverRequest::Hello { version: VERSION, layout: LAYOUT } => {}
        TakeoverRequest::Hello { version, layout } => {
            let why = format!(
                "it speaks version {VERSION} of the hand-over with maps of layout {LAYOUT}, the \
                 new one {version} and {layout}; stop this daemon and start the new one with \
                 --adopt all instead"
            );
            channel.send(&TakeoverReply::Refused(why.clone()), &[])?;
            return Err(TakeoverError::Refused(why));
        }
        _ => return Err(TakeoverError::Unexpected("expected Hello")),
    }
    let members = match fleet.freeze() {
        Ok(members) => members,
        Err(error) => {
            channel.send(&TakeoverReply::Refused(error.to_string()), &[])?;
            return Err(error.into());
        }
    };
    tracing::info!(sandboxes = members.len(), "handing over to another daemon");
    let mut paused = false;
    let given = talk(&channel, fleet, (socket, entrance), &members, &mut paused);
    if let Err(error) = &given {
        // Best effort: the peer may be gone.
        let _ = channel.send(&TakeoverReply::Refused(error.to_string()), &[]);
        for member in &members {
            let resumed = member.with(|enforced| {
                enforced.is_frozen = false;
                if paused { enforced.resume() } else { Ok(()) }
            });
            if let Some(Err(error)) = resumed {
                tracing::error!(
                    sandbox = %member.id,
                    %error,
                    "cannot accept new connections again"
                );
            }
        }
        fleet.thaw();
        return given;
    }
    let hurry = fleet.hurry();
    // Nobody joins this thread; the peer waits for the whole process to end.
    std::thread::spawn(move || {
        let _ = channel.set_patience(None);
        let _ = channel.receive::<TakeoverRequest>();
        hurry.cancel();
    });
    given
}

fn talk(
    channel: &Channel,
    fleet: &Arc<Fleet>,
    (socket, entrance): (&ControlSocket, Option<&Entrance>),
    members: &[Arc<Member>],
    paused: &mut bool,
) -> Result<(), TakeoverError> {
    let sets = program_sets(members)?;
    let control = socket.listener()?;
    let mut sockets = vec![control.as_fd()];
    sockets.extend(entrance.iter().flat_map(|entrance| entrance.sockets()));
    let page = entrance.map(Entrance::to_hand_over);
    let begin = TakeoverReply::Begin { sets: sets.len(), members: members.len(), page };
    channel.send(&begin, &sockets)?;
    for (_, descriptors) in &sets {
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        channel.send(&TakeoverReply::Set, &borrowed)?;
    }
    for member in members {
        let described = member.with(|enforced| describe(member, enforced, &sets));
        let (handed, descriptors) =
            described.ok_or(TakeoverError::Unexpected("a sandbox was removed meanwhile"))??;
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        channel.send(&TakeoverReply::Member(Box::new(handed)), &borrowed)?;
    }
    let TakeoverRequest::Ready = hear(channel)? else {
        return Err(TakeoverError::Unexpected("expected Ready"));
    };

    *paused = true;
    for member in members {
        // Drained one after the other, but all of them stop accepting first.
        member.with(|enforced| enforced.serving().halt());
    }
    for (index, member) in members.iter().enumerate() {
        let names = member.with(|enforced| {
            tokio::runtime::Handle::current().block_on(enforced.serving().pause());
            enforced.serving().hand_over_names()
        });
        for part in names.unwrap_or_default().parts(AT_ONCE) {
            channel.send(&TakeoverReply::Names { member: index, names: part }, &[])?;
        }
    }
    channel.send(&TakeoverReply::Paused, &[])?;
    let TakeoverRequest::Serving = hear(channel)? else {
        return Err(TakeoverError::Unexpected("expected Serving"));
    };
    if !fleet.commit_handover() {
        return Err(TakeoverError::Unexpected("the daemon is shutting down"));
    }
    socket.hand_over();
    entrance.into_iter().for_each(Entrance::hand_over);
    // No way back from here: if this message is lost, the new daemon is gone too.
    let told = channel.send(&TakeoverReply::Yours, &[]);
    tracing::info!("another daemon serves the sandboxes now; finishing open requests");
    let _ = kill(Pid::this(), Signal::SIGTERM);
    Ok(told?)
}

/// The program sets on the sandboxes' cgroups, each with its maps: this process's own, and those it
/// took over earlier.
fn program_sets(members: &[Arc<Member>]) -> Result<Vec<(usize, Vec<OwnedFd>)>, TakeoverError> {
    let mut sets: Vec<(usize, Vec<OwnedFd>)> = Vec::new();
    for member in members {
        let set = member.with(|enforced| {
            let (attachment, _) = enforced.kernel();
            let set = attachment.program_set();
            if sets.iter().any(|(known, _)| *known == set) {
                return Ok(None);
            }
            let copies = attachment
                .descriptors()
                .iter()
                .map(BorrowedFd::try_clone_to_owned)
                .collect::<Result<_, _>>()?;
            Ok::<_, std::io::Error>(Some((set, copies)))
        });
        sets.extend(set.transpose()?.flatten());
    }
    Ok(sets)
}

/// Describes a sandbox while it runs, and freezes it: nobody changes it from now on.
fn describe(
    member: &Member,
    enforced: &mut Enforced,
    sets: &[(usize, Vec<OwnedFd>)],
) -> Result<(HandedMember, Vec<OwnedFd>), TakeoverError> {
    enforced.is_frozen = true;
    let not_pinned = || TakeoverError::Unexpected("a sandbox's programs are not pinned");
    let (attachment, pins) = enforced.kernel();
    let (base, lock) = pins.ok_or_else(not_pinned)?.parts();
    let set = attachment.program_set();
    let summary = member.summary();
    let (source, source_text) = match summary.source {
        Source::File { path, text } => (Some(SentPath(path)), text),
        Source::Given => (None, None),
    };
    if summary.policy.is_null() {
        let why = "its policy document cannot be shown without a key".to_owned();
        return Err(TakeoverError::Member { id: member.id.to_string(), why });
    }
    let listeners = enforced.serving().listeners();
    let mut descriptors: Vec<OwnedFd> = vec![
        listeners.tcp4.as_fd().try_clone_to_owned()?,
        listeners.dns4.as_fd().try_clone_to_owned()?,
    ];
    let v6 = listeners.tcp6.as_ref().zip(listeners.dns6.as_ref());
    if let Some((tcp6, dns6)) = v6 {
        descriptors
            .extend([tcp6.as_fd().try_clone_to_owned()?, dns6.as_fd().try_clone_to_owned()?]);
    }
    descriptors.push(lock.as_fd().try_clone_to_owned()?);
    let handed = HandedMember {
        id: member.id.to_string(),
        cgroup: SentPath(member.cgroup.clone()),
        cgroup_id: member.cgroup_id,
        trust: SentPath(member.trust.clone()),
        created: member.created.to_string(),
        changed: summary.changed.to_string(),
        policy: with_stand_ins(summary.policy),
        source,
        source_text,
        proxy: enforced.serving().hand_over(),
        set: sets.iter().position(|(known, _)| *known == set).ok_or_else(not_pinned)?,
        pins: SentPath(attachment.pins().ok_or_else(not_pinned)?.to_owned()),
        base: SentPath(base.to_owned()),
        has_v6: v6.is_some(),
    };
    Ok((handed, descriptors))
}

/// Restores validity: a shown document has null where a key was.
fn with_stand_ins(mut policy: Value) -> Value {
    if let Some(Value::Object(simple)) = policy.get_mut("credentials") {
        simple.values_mut().filter(|key| key.is_null()).for_each(|key| *key = NO_KEY.into());
    }
    if let Some(Value::Object(credentials)) = policy.get_mut("credentials_v2") {
        let keys = credentials.values_mut().filter_map(|credential| credential.get_mut("key"));
        keys.filter(|key| key.is_null()).for_each(|key| *key = NO_KEY.into());
    }
    if let Some(auth) = policy.pointer_mut("/upstream/proxy_auth").filter(|auth| auth.is_null()) {
        *auth = NO_KEY.into();
    }
    policy
}

fn hear(channel: &Channel) -> Result<TakeoverRequest, TakeoverError> {
    match channel.receive::<TakeoverRequest>()? {
        Some((asks, _)) => Ok(asks),
        None => Err(TakeoverError::Lost(std::io::ErrorKind::UnexpectedEof.into())),
    }
}

impl HandedNames {
    /// Splits it into parts of at most `most` entries.
    fn parts(self, most: usize) -> Vec<HandedNames> {
        let (mut names, mut sent) = (self.names.into_iter(), self.sent.into_iter());
        let mut leases = self.leases.into_iter();
        let mut parts = Vec::new();
        while names.len() + sent.len() + leases.len() > 0 {
            parts.push(HandedNames {
                names: names.by_ref().take(most).collect(),
                sent: sent.by_ref().take(most).collect(),
                leases: leases.by_ref().take(LEASES_AT_ONCE).collect(),
            });
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_without_keys_is_valid_with_stand_ins() {
        let shown = serde_json::json!({
            "credentials": { "openai": null },
            "upstream": { "proxy": "http://proxy.corp:3128", "proxy_auth": null },
            "credentials_v2": {
                "one": { "key": null, "hosts": ["a.example"] },
                "two": { "key": { "env": "TWO" }, "hosts": ["b.example"] },
            },
        });
        let text = with_stand_ins(shown).to_string();
        assert!(interceptor_policy::Document::parse(&text).is_ok(), "{text}");
        assert!(text.contains(r#""env":"TWO""#));
    }

    #[test]
    fn names_are_told_in_parts_and_in_order() {
        let names = (0..10).map(|n| (format!("n{n}.example"), n)).collect();
        let parts =
            HandedNames { names, sent: vec![("a.example".into(), 7)], ..HandedNames::default() }
                .parts(4);
        assert_eq!(parts.iter().map(|part| part.names.len()).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(parts[0].sent.len(), 1);
        assert_eq!(parts[2].names[1].0, "n9.example");
    }
}
