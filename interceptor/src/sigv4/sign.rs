//! Signs a verified request again, as it is about to be sent.

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::canonical::Message;
use super::check::{TOKEN, Verified};
use super::claim::{AMZ_DATE, Place, TOKEN_PARAMETER, is_of_signature};
use super::keys::{Pair, SigningKey};
use super::problem::{ALGORITHM, Problem};
use super::signature::Signature;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a request is given.
pub(crate) struct Signed {
    /// The query to send.
    pub(crate) query: Zeroizing<String>,
    /// Signs what follows in the body.
    pub(super) key: SigningKey,
    pub(super) signature: Signature,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signed(…)")
    }
}

/// Signs a request with the real pair: sets its headers, and returns its query. `headers` are those
/// that are sent, and everything that was covered before is again.
///
/// # Errors
/// The keys do not fit into a request.
pub(crate) fn sign(
    verified: &Verified,
    message: (&str, &str, &str, &str),
    headers: &mut HeaderMap,
    real: &Pair<'_>,
) -> Result<Signed, Problem> {
    let (method, path, query, host) = message;
    let Verified { claim, payload, context, .. } = verified;
    let payload = payload.text().ok_or(Problem::Unwritable)?;
    let is_header = claim.place == Place::Header;
    for name in [AUTHORIZATION.as_str(), TOKEN] {
        headers.remove(name);
    }
    if is_header {
        headers.insert(HeaderName::from_static(AMZ_DATE), value(&context.time, false)?);
        if let Some(token) = real.token {
            headers.insert(HeaderName::from_static(TOKEN), value(token, true)?);
        }
    }
    let covered = covered(verified, headers);
    let kept = query.split('&').filter(|parameter| !is_of_signature(parameter));
    let mut query = Zeroizing::new(kept.collect::<Vec<_>>().join("&"));
    if let Place::Query { seconds } = claim.place {
        let credential = format!("{}/{}", real.id, context.scope);
        let seconds = seconds.to_string();
        let covered = covered.join(";");
        for (name, text) in [
            ("X-Amz-Algorithm", Some(ALGORITHM)),
            ("X-Amz-Credential", Some(&credential)),
            ("X-Amz-Date", Some(&context.time)),
            ("X-Amz-Expires", Some(&seconds)),
            ("X-Amz-SignedHeaders", Some(&covered)),
            (TOKEN_PARAMETER, real.token),
        ] {
            text.into_iter().for_each(|text| push(&mut query, name, text));
        }
    }
    let key = SigningKey::new(real, context);
    let sent = Message { method, path, query: &query, host, headers };
    let canonical = sent.canonical(&covered, payload, claim.is_s3(), |_| false);
    let signature = key.request(context, &canonical);
    if is_header {
        let text = Zeroizing::new(format!(
            "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={}",
            real.id,
            context.scope,
            covered.join(";"),
            signature.as_str()
        ));
        headers.insert(AUTHORIZATION, value(&text, true)?);
    } else {
        push(&mut query, "X-Amz-Signature", signature.as_str());
    }
    Ok(Signed { query, key, signature })
}

/// What the signature covers: what the first one did, and every header of AWS's own.
fn covered(verified: &Verified, headers: &HeaderMap) -> Vec<String> {
    let names = headers.keys().map(HeaderName::as_str);
    let is_covered = |name: &&str| verified.claim.covers(name) || name.starts_with("x-amz-");
    let names = names.filter(is_covered).filter(|name| *name != "host");
    let mut covered: Vec<String> = names.chain(["host"]).map(str::to_owned).collect();
    covered.sort();
    covered
}

fn push(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    query.extend(utf8_percent_encode(value, UNRESERVED));
}

fn value(text: &str, is_sensitive: bool) -> Result<HeaderValue, Problem> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Problem::Unwritable)?;
    value.set_sensitive(is_sensitive);
    Ok(value)
}
