//! Finds the placeholders in a request, and the credential form that each uses.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use interceptor_policy::{CredentialId, Form};
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use super::finder::PlaceholderFinder;

/// The placeholders in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// The credentials whose placeholders are in a header or the query, once each, in policy order.
    pub credentials: Vec<CredentialId>,
    forms: SmallVec<[(CredentialId, usize); 1]>,
}

impl Presented {
    /// The form in which a credential's placeholder appears; `None` if in none of its forms.
    pub fn form(&self, id: CredentialId) -> Option<usize> {
        self.forms.iter().find(|(presented, _)| *presented == id).map(|(_, form)| *form)
    }
}

/// Decodes Basic credentials, padded or not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// User name and password of an `authorization` value with the scheme Basic (RFC 7617).
pub(crate) fn basic(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let encoded = after_scheme(value, b"basic ")?;
    let mut user = LENIENT.decode(encoded.trim_ascii()).ok()?;
    let colon = user.iter().position(|byte| *byte == b':').unwrap_or(user.len());
    let password = user.get(colon + 1..).unwrap_or_default().to_vec();
    user.truncate(colon);
    Some((user, password))
}

fn after_scheme<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let start = value.get(..scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then(|| &value[scheme.len()..])
}

/// Searches a request's header names and values and its query. `forms` are those of each
/// credential.
pub(super) fn look<'a>(
    finder: &PlaceholderFinder,
    forms: &dyn Fn(usize) -> &'a [Form],
    headers: &HeaderMap,
    query: Option<&str>,
) -> Presented {
    let mut found = Vec::new();
    for (name, value) in headers {
        finder.find(value.as_bytes(), &mut found);
        finder.find(name.as_str().as_bytes(), &mut found);
    }
    if let Some(query) = query {
        finder.find(query.as_bytes(), &mut found);
    }
    found.sort_unstable();
    let form = |index: &usize| {
        let form = form(finder, *index, forms(*index), headers, query)?;
        Some((CredentialId(*index), form))
    };
    Presented {
        forms: found.iter().filter_map(form).collect(),
        credentials: found.into_iter().map(CredentialId).collect(),
    }
}

/// The first form in which placeholder `index` appears. Of two forms with the same header, the more
/// specific one wins.
fn form(
    finder: &PlaceholderFinder,
    index: usize,
    forms: &[Form],
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<usize> {
    let mut best: Option<(usize, usize)> = None;
    for (position, form) in forms.iter().enumerate() {
        let around = match form {
            Form::Header { name, prefix, suffix } => headers
                .get_all(name)
                .iter()
                .any(|value| {
                    let value = value.as_bytes();
                    after_scheme(value, prefix.as_bytes())
                        .and_then(|rest| rest.strip_suffix(suffix.as_bytes()))
                        .is_some_and(|inside| finder.holds(index, inside))
                })
                .then_some(prefix.len() + suffix.len()),
            Form::Basic { .. } => headers
                .get_all(AUTHORIZATION)
                .iter()
                .any(|value| {
                    basic(value.as_bytes()).is_some_and(|(user, password)| {
                        finder.holds(index, &user) || finder.holds(index, &password)
                    })
                })
                .then_some("basic ".len()),
            // The placeholder's id stands in the signature, of which another module knows.
            Form::SigV4 => None,
            Form::Query { name } => query
                .is_some_and(|query| {
                    query.split(['&', ';']).any(|parameter| {
                        let (given, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                        percent_decode_str(given).eq(name.bytes())
                            && finder.holds(index, value.as_bytes())
                    })
                })
                .then_some(usize::MAX),
        };
        match (around, best) {
            (Some(around), Some((_, known)))
                if around > known && known != usize::MAX && around != usize::MAX =>
            {
                best = Some((position, around));
            }
            (Some(around), None) => best = Some((position, around)),
            _ => {}
        }
    }
    best.map(|(position, _)| position)
}
