use super::*;

fn nobody() -> UserIdentity {
    UserIdentity {
        uid: 65534,
        gid: 65534,
        groups: vec![],
        name: "nobody".into(),
        home: None,
        shell: None,
    }
}

fn built(inherited: &[(&str, &str)], placeholders: &[(&str, &str)], keys: &[&str]) -> Vec<String> {
    built_with(inherited, placeholders, keys, &[]).0
}

fn built_with(
    inherited: &[(&str, &str)],
    placeholders: &[(&str, &str)],
    keys: &[&str],
    given: &[&str],
) -> (Vec<String>, Vec<String>) {
    let sources = Sources {
        inherited: inherited.iter().map(|(n, v)| (n.into(), v.into())).collect(),
        sandbox: "sb-0123",
        identity: &nobody(),
        placeholders: placeholders.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
        key_variables: keys.iter().map(|k| (*k).into()).collect(),
        service_variables: vec!["OPENAI_API_KEY".into(), "SERVICE_PAT".into()],
        given: given.iter().map(|line| (*line).into()).collect(),
    };
    let holds = |value: &[u8]| memchr::memmem::find(value, b"sk-real").is_some();
    let built = build(sources, holds);
    (built.lines.0.into_iter().map(|line| line.into_string().unwrap()).collect(), built.withheld)
}

#[test]
fn c11_secrets_that_the_policy_does_not_name_are_left_out_and_named() {
    let inherited = [
        ("SERVICE_PAT", "s-1"),
        ("TOKEN", "s-2"),
        ("my_api_key", "s-3"),
        ("AWS_SECRET_ACCESS_KEY", "s-4"),
        ("AWS_ACCESS_KEY_ID", "s-5"),
        ("DB_PASSWORD", "s-6"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/s-7"),
        ("EMPTY_TOKEN", ""),
        ("OPENAI_API_KEY", "governed"),
        ("BILLING_TOKEN", "by-name"),
        ("COPY_TOKEN", "sk-real"),
        ("MAX_TOKENS", "100"),
        ("MONKEY", "kept"),
        ("KEYBOARD_SECRETS", "kept"),
    ];
    let (seen, withheld) =
        built_with(&inherited, &[("OPENAI_API_KEY", "sk-placeholder")], &["BILLING_TOKEN"], &[]);
    let named = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "SERVICE_PAT",
        "TOKEN",
        "my_api_key",
    ];
    assert_eq!(withheld, named);
    assert!(!seen.iter().any(|line| line.contains("s-") && line.contains("=s-")), "{seen:?}");
    for kept in ["EMPTY_TOKEN=", "MAX_TOKENS=100", "MONKEY=kept", "KEYBOARD_SECRETS=kept"] {
        assert!(seen.iter().any(|line| line == kept), "{kept}: {seen:?}");
    }
}

#[test]
fn what_is_given_by_name_is_passed_but_never_a_real_key() {
    let inherited = [
        ("GH_TOKEN", "own"),
        ("OTHER_TOKEN", "x"),
        ("COPY_TOKEN", "sk-real"),
        ("HTTPS_PROXY", "p"),
    ];
    let given = [
        "GH_TOKEN",
        "COPY_TOKEN",
        "ABSENT",
        "HTTPS_PROXY",
        "NEW=a=b",
        "OTHER_TOKEN=set",
        "BILLING_KEY=x",
        "STOLEN=sk-real",
        "OPENAI_API_KEY=mine",
    ];
    let (seen, withheld) =
        built_with(&inherited, &[("OPENAI_API_KEY", "sk-placeholder")], &["BILLING_KEY"], &given);
    for line in [
        "GH_TOKEN=own",
        "HTTPS_PROXY=p",
        "NEW=a=b",
        "OTHER_TOKEN=set",
        "OPENAI_API_KEY=sk-placeholder",
    ] {
        assert!(seen.iter().any(|seen| seen == line), "{line}: {seen:?}");
    }
    for name in ["COPY_TOKEN", "BILLING_KEY", "STOLEN", "ABSENT"] {
        assert!(!seen.iter().any(|line| line.starts_with(&format!("{name}="))), "{name}: {seen:?}");
    }
    assert_eq!(withheld, [""; 0]);
}

#[test]
fn a_variable_that_holds_a_real_key_is_named_and_a_name_that_is_one_is_not() {
    let pairs = |all: &[(&str, &str)]| all.iter().map(|(n, v)| (n.into(), v.into())).collect();
    let built = build(
        Sources {
            inherited: pairs(&[
                ("COPY", "sk-real"),
                ("sk-real", "sk-real"),
                ("BILLING_KEY", "sk-real"),
            ]),
            sandbox: "sb-0123",
            identity: &nobody(),
            placeholders: vec![("OPENAI_API_KEY".into(), "sk-placeholder".into())],
            key_variables: vec!["BILLING_KEY".into(), "OTHER_KEY".into()],
            service_variables: Vec::new(),
            given: ["SET=sk-real", "OTHER_KEY=x", "OPENAI_API_KEY=sk-real"]
                .map(Into::into)
                .to_vec(),
        },
        |value| memchr::memmem::find(value, b"sk-real").is_some(),
    );
    assert_eq!(built.with_key, ["COPY", "OTHER_KEY", "SET"]);
}

#[test]
fn what_cannot_be_passed_or_set_is_said_without_its_value() {
    let said = |given: &str| objection(OsStr::new(given), |name| name == "SET");
    for fine in ["SET", "NEW=x", "NEW=", "NEW=a b"] {
        assert_eq!(said(fine), None, "{fine}");
    }
    for (given, part) in
        [("UNSET", "UNSET is not set"), ("=x", "no name"), ("A B", "no blanks"), ("", "no name")]
    {
        assert!(said(given).unwrap().contains(part), "{given}");
    }
    assert!(!said("A B=secret").unwrap().contains("secret"));
}

#[test]
fn c11_no_variable_that_holds_a_real_key_is_inherited() {
    let seen = built(
        &[
            ("BILLING_KEY", "by-name"),
            ("COPY", "Bearer sk-real"),
            ("OPENAI_API_KEY", "sk-real"),
            ("sk-real", "as a name"),
            ("KEPT", "sk-other"),
        ],
        &[("OPENAI_API_KEY", "sk-placeholder")],
        &["BILLING_KEY"],
    );
    assert!(
        !seen.iter().any(|line| line.contains("sk-real") || line.contains("by-name")),
        "{seen:?}"
    );
    assert!(seen.contains(&"KEPT=sk-other".to_owned()));
    assert_eq!(seen.iter().filter(|line| line.starts_with("OPENAI_API_KEY=")).count(), 1);
    assert!(seen.contains(&"OPENAI_API_KEY=sk-placeholder".to_owned()));
}

#[test]
fn c11_a_container_gets_placeholders_and_no_key_that_its_starter_gave_it() {
    let given = [
        "PATH=/bin",
        "HOME=/home/app",
        "OPENAI_API_KEY=sk-real",
        "COPY=x sk-real y",
        "HTTPS_PROXY=p",
        "ODD",
    ];
    let seen = of_container(
        &given.map(String::from),
        "sb-1",
        vec![("OPENAI_API_KEY".into(), "sk-placeholder".into())],
        &[],
        |value| memchr::memmem::find(value, b"sk-real").is_some(),
    );
    for kept in [
        "PATH=/bin",
        "HOME=/home/app",
        "ODD=",
        "INTERCEPTOR_SANDBOX=sb-1",
        "OPENAI_API_KEY=sk-placeholder",
    ] {
        assert!(seen.iter().any(|line| line == kept), "{kept}: {seen:?}");
    }
    assert!(
        !seen.iter().any(|line| line.contains("sk-real") || line.starts_with("HTTPS_PROXY")),
        "{seen:?}"
    );
}

#[test]
fn proxies_and_sockets_of_the_host_are_dropped() {
    for name in [
        "HTTPS_PROXY",
        "http_proxy",
        "all_proxy",
        "NO_PROXY",
        "npm_config_https_proxy",
        "npm_config_proxy",
        "SSH_AUTH_SOCK",
        "DOCKER_HOST",
        "SSL_CERT_DIR",
        "SUDO_COMMAND",
        "SSLKEYLOGFILE",
        "_JAVA_OPTIONS",
        "JDK_JAVA_OPTIONS",
    ] {
        let seen = built(&[(name, "x")], &[], &[]);
        assert!(!seen.iter().any(|line| line.starts_with(&format!("{name}="))), "{name}");
    }
}

#[test]
fn what_the_caller_had_for_trust_and_identity_is_replaced_and_java_options_are_kept() {
    let seen = built(
        &[("SSL_CERT_FILE", "/x"), ("HOME", "/root"), ("JAVA_TOOL_OPTIONS", "-Xmx1g")],
        &[],
        &[],
    );
    assert!(seen.contains(&"SSL_CERT_FILE=/run/sandbox-trust/ca-bundle.pem".to_owned()));
    assert!(seen.contains(&"NODE_EXTRA_CA_CERTS=/run/sandbox-trust/sandbox-ca.pem".to_owned()));
    assert!(seen.contains(&"HOME=/run/home".to_owned()));
    assert!(seen.contains(&"USER=nobody".to_owned()));
    assert!(seen.contains(&"INTERCEPTOR_SANDBOX=sb-0123".to_owned()));
    assert!(
        seen.iter()
            .any(|line| line
                .starts_with("JAVA_TOOL_OPTIONS=-Xmx1g -Djavax.net.ssl.trustStore=/run/"))
    );
    assert!(seen.iter().any(|line| line.starts_with("PATH=/usr/local/sbin:")));
}

#[test]
fn java_is_told_of_no_proxy() {
    let options =
        "-Dhttp.proxyHost=p -Xmx1g -Dhttps.proxyPort=1  '-DsocksProxyHost=p' -Dfile.encoding=UTF-8";
    let seen = built(&[("JAVA_TOOL_OPTIONS", options)], &[], &[]);
    let java = seen.iter().find(|line| line.starts_with("JAVA_TOOL_OPTIONS=")).unwrap();
    assert!(java.starts_with("JAVA_TOOL_OPTIONS=-Xmx1g -Dfile.encoding=UTF-8 -Djavax"), "{java}");
}
