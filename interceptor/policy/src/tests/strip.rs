//! Names that are removed from requests to governed hosts, in every spelling that a server may read
//! as the same name.

use super::super::strip::{Strip, is_method_override, query_overrides, resembles_framing};
use super::policy;

fn with<T>(credential: &str, look: impl FnOnce(&Strip) -> T) -> T {
    let policy = policy(&format!(r#"{{"credentials_v2":{{{credential}}}}}"#));
    look(policy.strip(super::CredentialId(0)))
}

const MINE: &str = r#""mine":{"key":"k","hosts":["mine.test"]}"#;

#[test]
fn c7_headers_that_authenticate_go_in_every_spelling() {
    with(MINE, |strip| {
        for name in "authorization proxy-authorization x-api-key api-key apikey x-goog-api-key \
                     private-token job-token deploy-token x-auth-token x-access-token \
                     x-amz-security-token x-vault-token dpop x-forwarded-client-cert remote-user \
                     x-remote-user x-forwarded-user x-auth-request-email x-shopify-access-token \
                     dd-api-key dd-application-key circle-token x-goog-iam-authorization-token \
                     x-goog-authenticated-user-email x-auth-key x-auth-email x-figma-token \
                     x-gitlab-token x-github-token cf-access-client-secret cf-access-jwt-assertion \
                     x-ms-client-principal x-ms-token-aad-access-token ocp-apim-subscription-key \
                     x-rapidapi-key x-consumer-username ssl-client-cert ssl-client-subject-dn \
                     x-ssl-client-verify x-client-cert client-cert impersonate-user \
                     x-functions-key x-amzn-oidc-data signature cookie cookie2 oauth-token \
                     x-oauth-token x-ops-authorization-1 x-ops-userid x-trino-user \
                     x-proxiedentitieschain x-cassandra-token x-trackertoken x-ovh-consumer \
                     dropbox-api-select-user x-apitoken x-shared-secret x-some-vendor-api-key \
                     x-any-access-token"
            .split_whitespace()
        {
            let upper = name.to_ascii_uppercase();
            let bare = name.replace('-', "");
            for spelt in [
                name,
                &upper,
                &name.replace('-', "_"),
                &upper.replacen('-', "_", 1),
                &name.replace('-', "."),
            ] {
                assert!(strip.header(spelt), "{spelt}");
            }
            // Separators mark prefixes and suffixes.
            if ["x-api-key", "api-key", "private-token", "x-auth-token", "remote-user"]
                .contains(&name)
            {
                assert!(strip.header(&bare), "{bare}");
            }
        }
    });
}

#[test]
fn h7_headers_that_name_another_path_or_host_go() {
    with(MINE, |strip| {
        for name in "x-original-url x-rewrite-url x-original-uri x-forwarded-uri x-forwarded-path \
                     x-forwarded-prefix x-forwarded-host x-forwarded-server x-forwarded-proto \
                     x-forwarded-port x-host x-original-host forwarded x-http-host-override \
                     base-url x-envoy-original-path x-envoy-original-host x-accel-redirect \
                     x-http-destinationurl script-name request-uri destination x-amz-copy-source \
                     x-ms-copy-source x-goog-copy-source x-copy-from x-ms-rename-source"
            .split_whitespace()
        {
            for spelt in [name, &name.replace('-', "_"), &name.to_ascii_uppercase()] {
                assert!(strip.header(spelt), "{spelt}");
            }
        }
    });
}

#[test]
fn ordinary_headers_and_parameters_pass() {
    with(MINE, |strip| {
        for name in
            "accept accept-encoding accept-language access-control-request-headers anthropic-beta \
             anthropic-version baggage cache-control content-type content-length content-encoding \
             date etag from host idempotency-key if-match if-none-match last-event-id link \
             mcp-session-id mcp-protocol-version openai-organization openai-project origin pragma \
             prefer priority range referer sec-fetch-mode sec-websocket-key sec-websocket-version \
             stripe-version te traceparent tracestate upgrade-insecure-requests user-agent via \
             x-amz-date x-amz-content-sha256 x-amz-target x-csrf-token x-xsrf-token \
             x-github-api-version x-goog-api-client x-goog-request-params x-goog-upload-command \
             x-goog-user-project x-http-method-override x-idempotency-key x-ms-continuationtoken \
             x-ms-date x-ms-version x-note x-request-id x-requested-with x-stainless-lang \
             notion-version git-protocol grpc-timeout x-user-agent api-version"
                .split_whitespace()
        {
            assert!(!strip.header(name), "{name}");
        }
        for parameter in "page=1 per_page=2 q=x keys=1 monkey=1 tokens=5 page_token=x pageToken=x \
                          next_token=x max_tokens=5 continuation_token=x api-version=1 alt=sse \
                          author=x sign_in=1 designature=1 sort=key id=1 user=me X-Amz-Date=1 \
                          state=open ref=main"
            .split_whitespace()
        {
            assert!(!strip.parameter(parameter), "{parameter}");
        }
        assert!(!strip.header("") && !strip.parameter("") && !strip.parameter("="));
    });
}

#[test]
fn c7_parameters_that_authenticate_go_in_every_spelling() {
    with(MINE, |strip| {
        for name in "access_token private_token api_key apikey api-key key token auth auth_token \
                     oauth_token sig signature X-Amz-Signature X-Amz-Credential \
                     X-Amz-Security-Token X-Goog-Signature X-Goog-Credential client_secret \
                     password jwt subscription-key accessToken apiKey some_api_key job_token \
                     x-api-key AWSAccessKeyId"
            .split_whitespace()
        {
            let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
            for spelt in [
                name.to_owned(),
                name.to_ascii_uppercase(),
                name.replace('_', "-"),
                name.replace(['_', '-'], "."),
                name.replace('_', "%5F"),
                encoded.clone(),
                encoded.replace('%', "%25"),
                format!("{name}[]"),
                format!("+{name}"),
            ] {
                assert!(strip.parameter(&format!("{spelt}=x")), "{spelt}");
                assert!(strip.parameter(&spelt), "{spelt}");
            }
        }
        for spelt in [
            "access[token",
            "access%5Btoken",
            "%u0061ccess_token",
            "auth_signature",
            "user_key",
            "ticket",
            "[access_token]",
            "access%252525255Ftoken",
            "token%3Dx",
        ] {
            assert!(strip.parameter(&format!("{spelt}=x")), "{spelt}");
        }
        // Letters that case folding turns into ASCII: the Kelvin sign, the long s.
        assert!(strip.parameter("%E2%84%AAey=x") && strip.parameter("%C5%BFig=x"));
        assert_eq!(strip.kept_query("a=1&TOKEN=x;b=2&sig=y&c").as_deref(), Some("a=1;b=2&c"));
        assert_eq!(strip.kept_query("a=1&b"), None);
    });
}

#[test]
fn names_that_a_service_needs_are_kept_and_names_that_a_credential_uses_are_not() {
    with(r#""github":{"key":"k"}"#, |strip| {
        assert!(
            !strip.parameter("key=cache-1")
                && strip.parameter("token=x")
                && !strip.parameter("k=1&key=2")
        );
    });
    with(r#""github":{"key":"k","inject":{"query":"key"}}"#, |strip| {
        assert!(strip.parameter("KEY=x"))
    });
    with(r#""mine":{"key":"k","hosts":["mine.test"],"inject":{"header":"x-note"}}"#, |strip| {
        assert!(strip.header("X_Note") && strip.header("authorization"));
    });
    with(r#""mine":{"key":"k","hosts":["mine.test"],"inject":{"header":"x-app"}}"#, |strip| {
        assert!(strip.header("x-app") && !strip.header("x-request-id"));
    });
    with(r#""mine":{"key":"k","hosts":["mine.test"],"cookies":true}"#, |strip| {
        assert!(strip.passes_cookies() && !strip.header("cookie") && strip.header("authorization"));
    });
}

#[test]
fn h4_names_that_a_server_may_take_for_framing_are_known() {
    for (name, framing) in [
        ("content_length", "content-length"),
        ("Content_Length", "content-length"),
        ("content.length", "content-length"),
        ("transfer_encoding", "transfer-encoding"),
        ("transfer-encoding_", "transfer-encoding"),
        ("keep_alive", "keep-alive"),
        ("proxy_connection", "proxy-connection"),
        ("connection_", "connection"),
        ("_host", "host"),
        ("te_", "te"),
        ("http2_settings", "http2-settings"),
    ] {
        assert_eq!(resembles_framing(name), Some(framing), "{name}");
    }
    for name in [
        "content-length",
        "transfer-encoding",
        "host",
        "keepalive",
        "x_note",
        "content_type",
        "hostname",
        "_",
        "",
    ] {
        assert_eq!(resembles_framing(name), None, "{name}");
    }
}

#[test]
fn r3_method_overrides_are_known_by_header_and_parameter() {
    for name in
        ["X-HTTP-Method-Override", "x_http_method", "http-method-override", "Method_Override"]
    {
        assert!(is_method_override(name), "{name}");
    }
    assert!(is_method_override("xhttpmethod") && !is_method_override("xhttpmetho"));
    assert!(!is_method_override("method") && !is_method_override("x-method"));
    let found: Vec<String> = query_overrides(
        "a=1&_method=DELETE&%5Fmethod=P%55T;.method=x&method=flickr.test&methods=1&\
         X-HTTP-Method-Override=get&_method",
    )
    .collect();
    assert_eq!(found, ["DELETE", "PUT", "x", "get", ""]);
}

#[test]
fn names_of_any_length_are_judged() {
    with(MINE, |strip| {
        let long = "x".repeat(10_000);
        assert!(!strip.header(&long) && !strip.parameter(&long));
        assert!(
            strip.header(&format!("{long}-api-key"))
                && strip.header(&format!("x-forwarded-{long}"))
        );
        assert!(strip.header(&format!("x{}api-key", "_".repeat(200))));
        assert!(resembles_framing(&format!("te{}", "_".repeat(200))).is_some());
    });
}
