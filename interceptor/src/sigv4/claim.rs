//! What a request says about its own signature, in a header or in the query. Nothing of it is
//! verified here; [`super::check`] does that.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{AUTHORIZATION, DATE};
use interceptor_policy::{AwsScope, AwsScopes};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use percent_encoding::percent_decode_str;

use super::problem::{ALGORITHM, Problem};
use super::signature::Signature;

/// The header with a signature's date.
pub(crate) const AMZ_DATE: &str = "x-amz-date";

/// The parameters of a signed URL that every one has, and that must stand in it once.
const PARAMETERS: [&str; 6] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
];
/// The parameter with the session token of a signed URL.
pub(super) const TOKEN_PARAMETER: &str = "X-Amz-Security-Token";
/// The longest a signed URL lasts: a week.
const LONGEST_SECONDS: i64 = 604_800;

/// Where a signature stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In `authorization`.
    Header,
    /// In the query.
    Query {
        /// How long it lasts.
        seconds: i64,
    },
}

/// A signature, as a request brings it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) id: String,
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) time: String,
    pub(crate) region: String,
    pub(crate) service: String,
    /// The names of the headers that it covers, in lower case and in order.
    pub(super) covered: Vec<String>,
    pub(super) signature: Signature,
    pub(crate) place: Place,
}

impl Claim {
    /// The signature of a request; `None` if it has none.
    ///
    /// # Errors
    /// It has two, or one in a form that cannot be verified.
    pub(crate) fn of(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Claim>, Problem> {
        let parameters = parameters(query.unwrap_or_default())?;
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), parameters) {
            (Some(_), Some(_)) => {
                Err(Problem::Malformed("it stands in a header and in the query at once"))
            }
            (None, Some(parameters)) => Claim::of_query(&parameters).map(Some),
            (None, None) => Ok(None),
            (Some(value), None) => {
                if values.next().is_some() {
                    return Err(Problem::Malformed("the request has `authorization` twice"));
                }
                let value = value.to_str().map_err(|_| Problem::Malformed("it is not text"))?;
                Claim::of_header(value, headers).map(Some)
            }
        }
    }

    fn of_header(value: &str, headers: &HeaderMap) -> Result<Claim, Problem> {
        let (algorithm, rest) = value.split_once(' ').unwrap_or((value, ""));
        known(algorithm)?;
        let [mut credential, mut covered, mut signature] = [None; 3];
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=').unwrap_or_default();
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut covered,
                "Signature" => &mut signature,
                _ => return Err(Problem::Malformed("`authorization` has an unknown part")),
            };
            if place.replace(value).is_some() {
                return Err(Problem::Malformed("`authorization` has a part twice"));
            }
        }
        let (Some(credential), Some(covered), Some(signature)) = (credential, covered, signature)
        else {
            return Err(Problem::Malformed("`authorization` lacks a part"));
        };
        let time = time(headers)?;
        Claim::assembled(credential, covered, signature, time, Place::Header)
    }

    fn of_query(parameters: &[String; 6]) -> Result<Claim, Problem> {
        let [algorithm, credential, time, expires, covered, signature] = parameters;
        known(algorithm)?;
        let is_number = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = expires.parse().ok().filter(|seconds| is_number && *seconds > 0);
        let Some(seconds) = seconds.filter(|seconds| *seconds <= LONGEST_SECONDS) else {
            return Err(Problem::Malformed("X-Amz-Expires is 1 to 604800 seconds"));
        };
        Claim::assembled(credential, covered, signature, time.clone(), Place::Query { seconds })
    }

    fn assembled(
        credential: &str,
        covered: &str,
        signature: &str,
        time: String,
        place: Place,
    ) -> Result<Claim, Problem> {
        let parts: Vec<&str> = credential.split('/').collect();
        let [id, date, region, service, "aws4_request"] = parts[..] else {
            return Err(Problem::Malformed("its credential is not ID/DATE/REGION/SERVICE/…"));
        };
        if !AwsScopes::is_name(region) || !AwsScopes::is_name(service) {
            return Err(Problem::Malformed("its scope does not name a region and a service"));
        }
        instant(&time).ok_or(Problem::Malformed("its date is not YYYYMMDDTHHMMSSZ"))?;
        if time.get(..8) != Some(date) {
            return Err(Problem::Malformed("the date of its scope is another than its own"));
        }
        let covered: Vec<String> = covered.split(';').map(str::to_owned).collect();
        let is_name = |name: &String| {
            http::HeaderName::from_bytes(name.as_bytes())
                .is_ok_and(|known| known.as_str() == name.as_str())
        };
        if !covered.iter().all(is_name) || !covered.is_sorted_by(|one, next| one < next) {
            return Err(Problem::Malformed(
                "the names of its headers are not in lower case, in order and without repetition",
            ));
        }
        let signature = Signature::parse(signature)
            .ok_or(Problem::Malformed("it is not 64 hexadecimal digits"))?;
        let (id, region, service) = (id.to_owned(), region.to_owned(), service.to_owned());
        Ok(Claim { id, time, region, service, covered, signature, place })
    }

    /// Whether a parameter of a URL belongs to a signature.
    pub(crate) fn is_parameter(parameter: &str) -> bool {
        is_of_signature(parameter)
    }

    /// What it is for.
    pub(crate) fn scope(&self) -> AwsScope<'_> {
        AwsScope { service: &self.service, region: &self.region }
    }

    /// Whether it is for S3, which has a canonical form of its own.
    pub(super) fn is_s3(&self) -> bool {
        matches!(self.service.as_str(), "s3" | "s3express" | "s3-outposts" | "s3-object-lambda")
    }

    /// When it was made.
    pub(super) fn made(&self) -> Option<Timestamp> {
        instant(&self.time)
    }

    pub(crate) fn covers(&self, name: &str) -> bool {
        self.covered.iter().any(|covered| covered == name)
    }
}

fn known(algorithm: &str) -> Result<(), Problem> {
    match algorithm {
        ALGORITHM => Ok(()),
        "AWS4-ECDSA-P256-SHA256" => Err(Problem::Unsupported(
            "it is signed by Signature Version 4A, which cannot be verified here; use a client or \
             an endpoint for one region",
        )),
        _ => Err(Problem::Unsupported(
            "it is not signed by AWS Signature Version 4 with the placeholder keys",
        )),
    }
}

/// The time of a signature in a header.
fn time(headers: &HeaderMap) -> Result<String, Problem> {
    let once = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next();
        match values.next() {
            None => Ok(first.and_then(|value| value.to_str().ok())),
            Some(_) => Err(Problem::Malformed("the request has its date twice")),
        }
    };
    if let Some(time) = once(AMZ_DATE)? {
        return Ok(time.to_owned());
    }
    let date = once(DATE.as_str())?.ok_or(Problem::Malformed("the request has no date"))?;
    let at = rfc2822::parse(date).map_err(|_| Problem::Malformed("its date is no HTTP date"))?;
    Ok(at.with_time_zone(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string())
}

fn instant(time: &str) -> Option<Timestamp> {
    let is_digit = |at: usize| time.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let plain = time.len() == 16 && (0..15).all(|at| at == 8 || is_digit(at));
    let at = plain.then(|| DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()).flatten()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The name of a parameter, decoded.
pub(super) fn parameter_name(parameter: &str) -> Cow<'_, [u8]> {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    percent_decode_str(name).into()
}

/// The parameters of a signed URL; `None` if it is none.
fn parameters(query: &str) -> Result<Option<[String; 6]>, Problem> {
    let mut found: [Option<String>; 6] = Default::default();
    for parameter in query.split('&') {
        let name = parameter_name(parameter);
        if name.eq_ignore_ascii_case(TOKEN_PARAMETER.as_bytes()) {
            return Err(Problem::Token);
        }
        let place = PARAMETERS.iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        let Some(place) = place else { continue };
        // Servers may read other spellings, too.
        if parameter.split_once('=').map(|(name, _)| name) != Some(PARAMETERS[place]) {
            return Err(Problem::Malformed("a parameter of its URL is spelled otherwise"));
        }
        let value = parameter.split_once('=').map_or("", |(_, value)| value);
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| Problem::Malformed("a parameter of its URL is not text"))?;
        if found[place].replace(value.into_owned()).is_some() {
            return Err(Problem::Malformed("a parameter of its URL stands there twice"));
        }
    }
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] = found else {
        return Err(Problem::Malformed("its URL lacks a parameter"));
    };
    Ok(Some([a, b, c, d, e, f]))
}

/// Whether a parameter belongs to the signature of a URL.
pub(super) fn is_of_signature(parameter: &str) -> bool {
    let name = parameter_name(parameter);
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    PARAMETERS.iter().any(is) || is(&TOKEN_PARAMETER)
}
