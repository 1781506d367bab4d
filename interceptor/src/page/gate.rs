//! What a request must have before anything else looks at it.
//!
//! - It is meant for this page by its `Host`, and comes from it by its `Origin`: a name that an
//!   attacker points at this host (DNS rebinding) is neither.
//! - It has a session, and its connection is of the user who began that, unless it is the way in:
//!   then it has a token. Nothing that costs more is looked at before.
//! - Its connection was made outside every sandbox.
//! - If it changes anything, it has a header that no form and no foreign script can send.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::Limited;

use super::shared::{Peer, Shared, cookie, names};
use super::way_in;
use crate::control::{ApiProblem, Speaker, blocking, timely};
use crate::entrance::{Entrance, KnownSession, WAY_IN};

/// The largest body of a request, in bytes.
const LARGEST_BODY: usize = 64 * 1024;
/// What is told of a token that is unknown, used or too old.
const STALE: &str = "stale_address";
/// The header of a request that changes something.
const ON_PURPOSE: &str = "x-interceptor-request";
/// Where everything comes from: only from here, and no script or style that stands in a document.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Admits a request, or answers why not.
pub(super) async fn admit(
    State(shared): State<Shared>,
    peer: Peer,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    let (body, unread) = timely(body);
    let is_page = wants_page(&head.headers);
    let is_entry = head.uri.path() == WAY_IN;
    let mut answer = match judge(&shared, &peer, &head.method, &head.uri, &head.headers).await {
        Ok(session) => {
            if let Some(session) = session {
                head.extensions.insert(session);
            }
            head.extensions.insert(Speaker::page());
            let body = Body::new(Limited::new(body, LARGEST_BODY));
            next.run(Request::from_parts(head, body)).await
        }
        // A person sees these two.
        Err(problem) if problem.status == 401 && is_page => way_in::locked(),
        Err(problem) if is_entry && problem.kind.ends_with(STALE) => way_in::stale(),
        Err(problem) => problem.into_response(),
    };
    // What was not read. The way in has no body.
    if !is_entry {
        unread.drain().await;
    }
    dress(answer.headers_mut());
    answer
}

/// The session of a request that may pass; the way in has none.
async fn judge(
    shared: &Shared,
    peer: &Peer,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<KnownSession>, ApiProblem> {
    let page = &shared.0.page;
    meant(&page.entrance, uri, headers)?;
    let is_read = [Method::GET, Method::HEAD].contains(method);
    let session = if uri.path() == WAY_IN && is_read {
        if !page.entrance.expects(way_in::token(uri)) {
            return Err(refused(STALE, "The address lets nobody in any more", ""));
        }
        None
    } else {
        let session = peer.0.uid().and_then(|uid| session_of(&page.entrance, headers, uid));
        Some(session.ok_or_else(|| {
            let detail = "`interceptor ctl page` prints an address that lets you in";
            let title = "There is no session";
            ApiProblem::new(StatusCode::UNAUTHORIZED, "no_session", title, detail)
        })?)
    };
    let (fleet, other) = (page.fleet.clone(), peer.0.clone());
    if let Err(why) = blocking(move || other.outside(&fleet)).await? {
        shared.log_refusal(why);
        return Err(refused("peer_refused", "This process may not use the page", why));
    }
    if session.is_some() && !is_read && !headers.contains_key(ON_PURPOSE) {
        let title = "The request could be forged";
        let detail = format!("a request that changes something has the header `{ON_PURPOSE}`");
        return Err(refused("not_on_purpose", title, detail));
    }
    Ok(session)
}

/// Whether a request is meant for this page, and comes from it.
fn meant(entrance: &Entrance, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiProblem> {
    let names = names(entrance.address());
    let is_ours = |name: &[u8]| names.iter().any(|known| known.as_bytes() == name);
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        (values.next(), values.next())
    };
    let host = only(HOST);
    let by_host = matches!(host, (Some(host), None) if is_ours(host));
    let by_uri = uri.authority().is_none_or(|name| is_ours(name.as_str().as_bytes()));
    if !by_host || !by_uri {
        let detail = format!("ask for it as http://{}/", entrance.address());
        return Err(refused("wrong_host", "The request is for another host", detail));
    }
    let from_here = |origin: &[u8]| origin.strip_prefix(b"http://").is_some_and(is_ours);
    let by_origin = match only(ORIGIN) {
        (None, _) => true,
        (Some(origin), None) => from_here(origin),
        (Some(_), Some(_)) => false,
    };
    // What the browser says of who asks; a person may come from anywhere, by the way in alone.
    let asks = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let by_site = asks.is_none_or(|site| site == b"same-origin" || site == b"none")
        || uri.path() == WAY_IN
        || (uri.path() == "/" && headers.get("sec-fetch-mode").is_some_and(|m| m == "navigate"));
    if !by_origin || !by_site {
        let detail = "only the page itself may ask";
        return Err(refused("wrong_origin", "The request comes from another page", detail));
    }
    Ok(())
}

/// The session that the cookies tell of, if it is the user's.
fn session_of(entrance: &Entrance, headers: &HeaderMap, uid: u32) -> Option<KnownSession> {
    let name = cookie(entrance);
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    let mut own = pairs.filter(|(known, _)| known.trim() == name);
    own.find_map(|(_, session)| entrance.admits(session.trim(), uid))
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

fn refused(kind: &str, title: &str, detail: impl Into<String>) -> ApiProblem {
    ApiProblem::new(StatusCode::FORBIDDEN, kind, title, detail)
}

/// What every answer says to the browser.
fn dress(headers: &mut HeaderMap) {
    let fields = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entrance() -> Entrance {
        Entrance::bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        all.iter().map(pair).collect()
    }

    #[test]
    fn a_request_is_meant_for_the_page_by_its_host_and_comes_from_it_by_its_origin() {
        let entrance = entrance();
        let (own, port) = (entrance.address().to_string(), entrance.address().port());
        let local = format!("localhost:{port}");
        let is = |path: &str, all: &[(&'static str, &str)]| {
            meant(&entrance, &path.parse().unwrap(), &headers(all)).is_ok()
        };
        let origin = format!("http://{own}");
        assert!(is("/", &[("host", &own)]) && !is("/", &[("host", &local)]));
        let foreign = format!("http://{local}");
        assert!(!is("/v1/events", &[("host", &own), ("origin", &foreign)]));
        assert!(is("/v1/events", &[("host", &own), ("origin", &origin)]));
        let absolute = format!("http://{own}/");
        assert!(is(&absolute, &[("host", &own)]));
        for host in ["127.0.0.1", "rebound.test", &format!("rebound.test:{port}"), ""] {
            assert!(!is("/", &[("host", host)]), "{host}");
            assert!(!is("/enter?token=x", &[("host", host)]), "{host}");
        }
        assert!(!is("/", &[]));
        assert!(!is("http://rebound.test/", &[("host", &own)]));
        for wrong in ["null", "http://evil.test", &format!("https://{own}"), &own] {
            assert!(!is("/v1/events", &[("host", &own), ("origin", wrong)]), "{wrong}");
        }
        let site = |path: &str, site: &str| is(path, &[("host", &own), ("sec-fetch-site", site)]);
        assert!(site("/v1/events", "same-origin") && site("/", "none"));
        assert!(!site("/v1/events", "cross-site") && !site("/v1/events", "same-site"));
        assert!(site("/enter?token=x", "cross-site"), "a link in a terminal's page");
    }

    #[test]
    fn two_hosts_or_origins_are_none() {
        let entrance = entrance();
        let own = entrance.address().to_string();
        for name in ["host", "origin"] {
            let mut all = headers(&[("host", &own), ("origin", &format!("http://{own}"))]);
            let second = all[name].clone();
            all.append(name, second);
            meant(&entrance, &"/".parse().unwrap(), &all).unwrap_err();
        }
    }

    #[test]
    fn the_session_is_found_among_the_cookies_of_the_host() {
        let entrance = entrance();
        let url = entrance.invite().unwrap();
        let token = url.split_once("token=").unwrap().1;
        let session = entrance.enter(token, 7).unwrap().unwrap();
        let name = cookie(&entrance);
        let of = |cookies: &str, uid| session_of(&entrance, &headers(&[("cookie", cookies)]), uid);
        let has = |cookies: &str| of(cookies, 7).is_some();
        assert!(of(&format!("{name}={}", session.as_str()), 8).is_none(), "another user has it");
        assert!(has(&format!("other=1; {name}={}", session.as_str())));
        assert!(has(&format!("{name}=stale; {name}={}", session.as_str())));
        for wrong in ["", &name, &format!("{name}="), &format!("x{name}={}", session.as_str())] {
            assert!(!has(wrong), "{wrong}");
        }
        assert!(!has(&format!("{name}={token}")), "a token is no session");
    }
}
