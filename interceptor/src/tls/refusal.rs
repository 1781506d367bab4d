//! Why TLS with an origin failed and what would help, in words, from a rustls error. rustls's own
//! text is never shown: it is for developers.

use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{
    AlertDescription, CertificateError, Error, ExtendedKeyPurpose, InvalidMessage, PeerIncompatible,
};

use super::verify::is_ca_certificate;

/// Maximum number of a certificate's names listed; the rest are counted.
const MOST_NAMES: usize = 5;
/// Maximum characters of a name, which the origin chooses.
const MOST_NAME: usize = 80;

/// What is known about a handshake besides its error.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HandshakeContext {
    /// Whether a credential governs the host, so that it cannot be passed through.
    pub governed: bool,
    /// Whether the origin asked for a client certificate.
    pub asked_for_certificate: bool,
    /// Whether there was one to present.
    pub presented: bool,
}

/// The rustls error in a stream's error.
pub(crate) fn of_io(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref::<Error>()
}

/// The rustls error in an error's chain of causes.
pub(crate) fn in_chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let found = error.downcast_ref::<Error>();
        let found = found.or_else(|| error.downcast_ref::<io::Error>().and_then(of_io));
        if found.is_some() {
            return found;
        }
        cause = error.source();
    }
    None
}

/// What failed, as a sentence about the origin that begins with "it" or "its".
pub(crate) fn words(error: &io::Error, attempt: HandshakeContext) -> String {
    match of_io(error) {
        Some(error) => of_tls(error, attempt),
        None if attempt.asked_for_certificate => certificate_missed(attempt),
        None => "it ended the connection during the TLS handshake".to_owned(),
    }
}

/// For an origin that requires a client certificate.
pub(crate) fn certificate_demanded(attempt: HandshakeContext) -> String {
    if attempt.presented {
        return "it requires a client certificate of another kind than the credential's".to_owned();
    }
    format!(
        "it requires a client certificate, and there is none to present; {}",
        present_one(attempt)
    )
}

/// For an origin that asked for a client certificate and then ended the connection without an
/// answer.
pub(crate) fn certificate_missed(attempt: HandshakeContext) -> String {
    if attempt.presented {
        return "it got the credential's client certificate and ended the connection without an \
                answer; it may not accept that certificate"
            .to_owned();
    }
    format!(
        "it asked for a client certificate, got none, and ended the connection without an answer; \
         if it needs one, {}",
        present_one(attempt)
    )
}

fn present_one(attempt: HandshakeContext) -> &'static str {
    if attempt.governed {
        "give its credential a `client_cert`"
    } else {
        "name the host in `network.passthrough`, so that the client can present its own"
    }
}

/// The end of a sentence that says what to do about an origin that the proxy cannot speak to.
fn or_pass_through(attempt: HandshakeContext) -> &'static str {
    if attempt.governed {
        "(as a credential's host it cannot be named in `network.passthrough`)"
    } else {
        "or name it in `network.passthrough`, so that the client speaks TLS with it directly"
    }
}

fn nothing_in_common(attempt: HandshakeContext) -> String {
    format!(
        "it has no TLS version and cipher suite in common with this proxy, which speaks TLS 1.3, \
         and TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305; bring its TLS configuration up \
         to date, {}",
        or_pass_through(attempt)
    )
}

/// The same for a rustls error.
pub(crate) fn of_tls(error: &Error, attempt: HandshakeContext) -> String {
    match error {
        Error::InvalidCertificate(problem) => of_certificate(problem, attempt),
        Error::AlertReceived(alert) => of_alert(*alert, attempt),
        Error::PeerIncompatible(problem) => match problem {
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::ExtendedMasterSecretExtensionRequired => nothing_in_common(attempt),
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
                certificate_demanded(attempt)
            }
            _ => format!(
                "it needs a TLS feature that this proxy does not support; bring its TLS \
                 configuration up to date, {}",
                or_pass_through(attempt)
            ),
        },
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => "it does not speak TLS on that port; if it speaks plain HTTP there, use http://"
            .to_owned(),
        Error::NoCertificatesPresented => "it presented no certificate".to_owned(),
        Error::PeerMisbehaved(_)
        | Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::DecryptError
        | Error::PeerSentOversizedRecord => {
            format!("it violates the TLS protocol; repair it, {}", or_pass_through(attempt))
        }
        _ => "the TLS handshake with it failed".to_owned(),
    }
}

fn of_alert(alert: AlertDescription, attempt: HandshakeContext) -> String {
    use AlertDescription as Alert;
    if attempt.presented
        && attempt.asked_for_certificate
        && let Some(why) = rejection(alert)
    {
        return format!("it refused the credential's client certificate: {why}");
    }
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => certificate_demanded(attempt),
        // TLS 1.2 servers send these to a client without a certificate (RFC 5246 section 7.4.6), or
        // with one they reject.
        Alert::HandshakeFailure
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
            if attempt.asked_for_certificate =>
        {
            certificate_demanded(attempt)
        }
        Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity => {
            nothing_in_common(attempt)
        }
        Alert::UnrecognisedName => {
            "it does not serve that name; check the name, or what it resolves to".to_owned()
        }
        Alert::AccessDenied => "it refused the TLS handshake: access is denied".to_owned(),
        Alert::InternalError => {
            "it failed during the TLS handshake with an internal error".to_owned()
        }
        alert => format!(
            "it ended the TLS handshake with alert {} (RFC 8446 section 6)",
            u8::from(alert)
        ),
    }
}

/// Why an origin refused a client certificate, by its alert (RFC 8446 section 6.2).
fn rejection(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as Alert;
    Some(match alert {
        Alert::CertificateExpired => "it has expired, or its clock says so",
        Alert::CertificateRevoked => "it was revoked",
        Alert::UnknownCA => "it does not trust the CA that issued it",
        Alert::UnsupportedCertificate => "it is of a kind that it does not support",
        Alert::AccessDenied => "it is not permitted there",
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::HandshakeFailure => {
            "it does not accept it, and does not say why"
        }
        Alert::DecryptError => "its signature could not be verified",
        _ => return None,
    })
}

#[expect(clippy::too_many_lines, reason = "a table: one arm a problem")]
fn of_certificate(problem: &CertificateError, attempt: HandshakeContext) -> String {
    match problem {
        CertificateError::UnknownIssuer => "its certificate was not issued by a CA trusted here; \
                                            if that is intended, give its CA, or the certificate \
                                            itself, with --upstream-ca"
            .to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired{}; it must be renewed", on(*not_after))
        }
        CertificateError::Expired => "its certificate has expired; it must be renewed".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!(
                "its certificate is not valid {}; check the clocks of both",
                before(*not_before)
            )
        }
        CertificateError::NotValidYet => {
            "its certificate is not valid yet; check the clocks of both".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!("its certificate is for {}, not for the requested name", names(presented))
        }
        CertificateError::NotValidForName => {
            "its certificate is not for the requested name".to_owned()
        }
        CertificateError::Revoked => "its certificate was revoked; it must be replaced".to_owned(),
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. }
        | CertificateError::InvalidOcspResponse => {
            "whether its certificate was revoked is unknown".to_owned()
        }
        CertificateError::BadEncoding => {
            format!(
                "its certificate is malformed; it must be reissued, {}",
                or_pass_through(attempt)
            )
        }
        CertificateError::BadSignature => "its certificate names an issuer that is trusted \
                                           here, but was not signed by it; if that is intended, \
                                           give its CA with --upstream-ca"
            .to_owned(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "its certificate is signed with an algorithm that is no longer secure, or unknown \
             here; it must be reissued (RSA or ECDSA with SHA-256, Ed25519), {}",
            or_pass_through(attempt)
        ),
        CertificateError::InvalidPurposeContext { presented, .. } => {
            let clients = presented.contains(&ExtendedKeyPurpose::ClientAuth);
            let purpose = if clients { "for clients, not for servers" } else { "not for servers" };
            format!("its certificate is {purpose} (extended key usage); it must be reissued")
        }
        CertificateError::InvalidPurpose => "its certificate is not for servers (extended key \
                                             usage); it must be reissued"
            .to_owned(),
        CertificateError::UnhandledCriticalExtension => {
            "its certificate has a critical extension that is unknown here".to_owned()
        }
        CertificateError::Other(other) if is_ca_certificate(other) => {
            "its certificate is a CA's, not a server's; if it is self-signed, give exactly that \
             certificate with --upstream-ca"
                .to_owned()
        }
        CertificateError::Other(other) => of_path(other),
        _ => "its certificate is not acceptable".to_owned(),
    }
}

/// Webpki errors that rustls has no variant for.
fn of_path(other: &rustls::OtherError) -> String {
    use webpki::Error;
    match other.0.downcast_ref::<Error>() {
        Some(Error::EndEntityUsedAsCa | Error::PathLenConstraintViolated) => {
            "its certificate was issued by a certificate that may not issue any".to_owned()
        }
        Some(Error::NameConstraintViolation) => {
            "its certificate was issued by a CA that may not issue any for that name".to_owned()
        }
        Some(Error::UnsupportedCertVersion) => {
            "its certificate is of a version before X.509 v3; it must be reissued".to_owned()
        }
        Some(
            Error::MaximumSignatureChecksExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumPathDepthExceeded
            | Error::MaximumNameConstraintComparisonsExceeded,
        ) => "its chain of certificates is too long to be verified".to_owned(),
        Some(
            Error::ExtensionValueInvalid
            | Error::MalformedExtensions
            | Error::MalformedDnsIdentifier,
        ) => "its certificate is malformed; it must be reissued".to_owned(),
        _ => "its certificate is not acceptable".to_owned(),
    }
}

/// The names of a certificate, as rustls formats them, made readable.
fn names(presented: &[String]) -> String {
    let shown = |text: &String| {
        let name = text
            .strip_prefix("DnsName(\"")
            .and_then(|rest| rest.strip_suffix("\")"))
            .or_else(|| text.strip_prefix("IpAddress(").and_then(|rest| rest.strip_suffix(')')))?;
        let plain = |character: &char| character.is_ascii_graphic() && *character != '`';
        let name: String = name.chars().filter(plain).take(MOST_NAME).collect();
        (!name.is_empty()).then(|| format!("`{name}`"))
    };
    let all: Vec<String> = presented.iter().filter_map(shown).collect();
    match all.len() {
        0 => "no host name (the subject does not count)".to_owned(),
        count if count > MOST_NAMES => {
            format!("{} and {} more", all[..MOST_NAMES].join(", "), count - MOST_NAMES)
        }
        _ => all.join(", "),
    }
}

fn on(time: UnixTime) -> String {
    date(time).map(|date| format!(" on {date}")).unwrap_or_default()
}

fn before(time: UnixTime) -> String {
    date(time).map(|date| format!("before {date}")).unwrap_or_else(|| "yet".to_owned())
}

fn date(time: UnixTime) -> Option<String> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    Some(Timestamp::from_second(seconds).ok()?.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::{OtherError, PeerMisbehaved};

    use super::*;

    fn said(error: Error, attempt: HandshakeContext) -> String {
        words(&io::Error::new(io::ErrorKind::InvalidData, error), attempt)
    }

    #[test]
    fn t4_each_failure_says_what_it_is_and_what_would_help() {
        let open = HandshakeContext::default();
        let asked = HandshakeContext { asked_for_certificate: true, ..open };
        let governed = HandshakeContext { governed: true, ..open };
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let certificate = |error| Error::InvalidCertificate(error);
        let path = |error: webpki::Error| {
            certificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        let wrong_name = |presented: &[&str]| {
            certificate(CertificateError::NotValidForNameContext {
                expected: rustls::pki_types::ServerName::try_from("a.test").unwrap(),
                presented: presented.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        let table = [
            (Error::AlertReceived(AlertDescription::HandshakeFailure), open, "in common"),
            (Error::AlertReceived(AlertDescription::HandshakeFailure), open, "network.passthrough"),
            (Error::AlertReceived(AlertDescription::HandshakeFailure), governed, "cannot be named"),
            (Error::AlertReceived(AlertDescription::HandshakeFailure), asked, "client certificate"),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                open,
                "client certificate",
            ),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), open, "in common"),
            (Error::AlertReceived(AlertDescription::InsufficientSecurity), open, "in common"),
            (
                Error::AlertReceived(AlertDescription::UnrecognisedName),
                open,
                "does not serve that name",
            ),
            (Error::AlertReceived(AlertDescription::DecodeError), open, "alert 50"),
            (
                Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
                open,
                "in common",
            ),
            (
                Error::PeerMisbehaved(PeerMisbehaved::IllegalTlsInnerPlaintext),
                open,
                "violates the TLS",
            ),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), open, "http://"),
            (Error::General("secret detail".to_owned()), open, "handshake with it failed"),
            (certificate(CertificateError::UnknownIssuer), open, "--upstream-ca"),
            (certificate(CertificateError::Revoked), open, "revoked"),
            (certificate(CertificateError::BadEncoding), open, "malformed"),
            (
                certificate(CertificateError::ExpiredContext {
                    time: time(0),
                    not_after: time(1_577_836_800),
                }),
                open,
                "expired on 2020-01-01",
            ),
            (
                certificate(CertificateError::NotValidYetContext {
                    time: time(0),
                    not_before: time(4_102_444_800),
                }),
                open,
                "not valid before 2100-01-01",
            ),
            (
                wrong_name(&["DnsName(\"x.test\")", "IpAddress(192.0.2.1)"]),
                open,
                "is for `x.test`, `192.0.2.1`, not",
            ),
            (wrong_name(&[]), open, "no host name"),
            (wrong_name(&["DnsName(\"a\")"; 9]), open, "and 4 more"),
            (
                path(webpki::Error::CaUsedAsEndEntity),
                open,
                "exactly that certificate with --upstream-ca",
            ),
            (path(webpki::Error::NameConstraintViolation), open, "may not issue any for that name"),
            (path(webpki::Error::UnsupportedCertVersion), open, "v3"),
            (path(webpki::Error::EmptyEkuExtension), open, "not acceptable"),
        ];
        for (error, attempt, expected) in table {
            let shown = format!("{error:?}");
            let said = said(error, attempt);
            assert!(said.contains(expected), "{shown} became: {said}");
            assert!(!said.contains("secret detail") && !said.contains("Context {"), "{said}");
        }
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(words(&reset, open).contains("ended the connection"));
        assert!(words(&reset, asked).contains("client certificate"));
    }
}
