//! What a client's TLS alert says about our certificate.

use std::io;

use rustls::AlertDescription;

/// The alert with which a client rejected the certificate (RFC 8446 section 6.2), if this error is
/// one.
pub(crate) fn certificate_alert(error: &io::Error) -> Option<&'static str> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::AlertReceived(alert) = tls else { return None };
    Some(match alert {
        AlertDescription::BadCertificate => "bad_certificate",
        AlertDescription::UnsupportedCertificate => "unsupported_certificate",
        AlertDescription::CertificateRevoked => "certificate_revoked",
        AlertDescription::CertificateExpired => "certificate_expired",
        AlertDescription::CertificateUnknown => "certificate_unknown",
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::AccessDenied => "access_denied",
        AlertDescription::BadCertificateStatusResponse => "bad_certificate_status_response",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(description: AlertDescription) -> Option<&'static str> {
        let error = rustls::Error::AlertReceived(description);
        certificate_alert(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn only_certificate_alerts_count_as_rejection() {
        assert_eq!(received(AlertDescription::UnknownCA), Some("unknown_ca"));
        assert_eq!(received(AlertDescription::CertificateUnknown), Some("certificate_unknown"));
        assert_eq!(received(AlertDescription::HandshakeFailure), None);
        assert_eq!(received(AlertDescription::CloseNotify), None);
        assert_eq!(certificate_alert(&io::ErrorKind::UnexpectedEof.into()), None);
    }
}
