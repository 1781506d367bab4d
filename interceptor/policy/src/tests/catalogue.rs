//! The catalogue's data is complete, well-formed and free of conflicts.

use std::collections::HashSet;

use super::super::{Catalogue, Form, PlaceholderShape, json_schema, read};

#[test]
fn the_catalogue_has_the_services_that_users_ask_for() {
    let catalogue = Catalogue::builtin();
    let expected = [
        "anthropic",
        "aws",
        "cohere",
        "deepseek",
        "github",
        "gitlab",
        "google",
        "groq",
        "huggingface",
        "linear",
        "mistral",
        "notion",
        "openai",
        "openrouter",
        "perplexity",
        "replicate",
        "sendgrid",
        "slack",
        "stripe",
        "together",
        "xai",
    ];
    let names: Vec<&str> = catalogue.services().map(|service| service.name.as_str()).collect();
    assert_eq!(names, expected);
    for service in catalogue.services() {
        for field in ["hosts", "forms", "env", "placeholder"] {
            let source = service
                .sources
                .get(field)
                .unwrap_or_else(|| panic!("{}: no source of {field}", service.name));
            assert!(source.starts_with("https://"), "{}: {source}", service.name);
        }
        let known = service.sources.contains_key("base_url_env");
        assert_eq!(
            known,
            !service.base_url_env.is_empty(),
            "{}: the source of base_url_env",
            service.name
        );
        for path in service.base_url_env.values() {
            assert!(
                path.is_empty() || path.starts_with('/') && !path.ends_with('/'),
                "{}: {path}",
                service.name
            );
        }
        let shape = &service.placeholder;
        if service.forms == [Form::SigV4] {
            // Ids have a fixed shape; the secret beside it is drawn by that of secrets.
            assert_eq!(*shape, PlaceholderShape::aws_access_key_id());
            continue;
        }
        let plain = shape.prefix.replace('-', "");
        assert!(plain.contains("proxymanaged"), "{}: {}", service.name, shape.prefix);
        let bits = (shape.alphabet.characters().len() as f64).log2() * shape.random as f64;
        assert!(bits >= 128.0, "{}: {bits} bits", service.name);
    }
}

#[test]
fn the_forms_that_clients_use_are_listed_default_first() {
    let catalogue = Catalogue::builtin();
    let forms = |name: &str| {
        let form = |form: &Form| match form {
            Form::Header { name, prefix, suffix } => format!("{name}: {prefix}_{suffix}"),
            Form::Basic { username } => format!("basic {username}"),
            Form::Query { name } => format!("?{name}"),
            Form::SigV4 => "signed".to_owned(),
        };
        catalogue.service(name).unwrap().forms.iter().map(form).collect::<Vec<_>>()
    };
    assert_eq!(forms("openai"), ["authorization: Bearer _"]);
    assert_eq!(forms("anthropic"), ["x-api-key: _", "authorization: Bearer _"]);
    assert_eq!(
        forms("github"),
        ["authorization: Bearer _", "authorization: token _", "basic x-access-token"]
    );
    assert_eq!(forms("google"), ["x-goog-api-key: _", "?key", "authorization: Bearer _"]);
    assert_eq!(forms("stripe"), ["authorization: Bearer _", "basic {key}"]);
    assert_eq!(forms("linear"), ["authorization: _", "authorization: Bearer _"]);
}

#[test]
fn no_two_services_claim_one_variable_or_one_host() {
    let catalogue = Catalogue::builtin();
    let mut variables = HashSet::new();
    let mut hosts = HashSet::new();
    for service in catalogue.services() {
        for variable in &service.env {
            assert!(variables.insert(variable.clone()), "{variable}");
        }
        for host in &service.host_texts {
            assert!(hosts.insert(host.clone()), "{host}");
        }
    }
}

#[test]
fn the_profiles_exist_and_refuse_hosts_they_do_not_list() {
    let catalogue = Catalogue::builtin();
    let names: Vec<&str> = catalogue.profiles().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["claude-code", "data-science", "locked-down", "openai", "unrestricted", "web-dev"]
    );
    for (name, profile) in catalogue.profiles() {
        assert!(!profile.description.is_empty());
        assert_eq!(catalogue.allow_rules(profile).1, name != "unrestricted", "{name}");
    }
}

#[test]
fn a_service_that_could_not_work_is_refused() {
    let service = |entry: &str| {
        format!(
            r#"{{"description":"d",
                "services":[{{"name":"s","title":"S",{entry},"sources":{{}}}}]}}"#
        )
    };
    let shape = r#""placeholder":{"prefix":"p-","random":32,"alphabet":"alphanumeric"}"#;
    let forms = r#""forms":[{"header":"x-key"}]"#;
    let placeholder = |random: u8, alphabet: &str| {
        format!(
            r#""hosts":["s.test"],{forms},"env":["S"],
            "placeholder":{{"prefix":"p-","random":{random},"alphabet":"{alphabet}"}}"#
        )
    };
    let good = service(&format!(r#""hosts":["s.test"],{forms},"env":["S"],{shape}"#));
    assert!(Catalogue::from_json(&good, "{}").is_ok());
    for wrong in [
        format!(r#""hosts":[],{forms},"env":["S"],{shape}"#),
        format!(r#""hosts":["a b"],{forms},"env":["S"],{shape}"#),
        format!(r#""hosts":["s.test"],"forms":[],"env":["S"],{shape}"#),
        format!(r#""hosts":["s.test"],"forms":[{{"header":"host"}}],"env":["S"],{shape}"#),
        format!(r#""hosts":["s.test"],{forms},"env":[],{shape}"#),
        placeholder(20, "alphanumeric"),
        placeholder(31, "lower_hex"),
    ] {
        assert!(Catalogue::from_json(&service(&wrong), "{}").is_err(), "{wrong}");
    }
}

/// `data/policy.schema.json` matches the types. To regenerate it: `INTERCEPTOR_WRITE_SCHEMA=1 cargo
/// test schema`.
#[test]
fn the_checked_in_schema_matches_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/policy.schema.json");
    let schema = json_schema();
    if std::env::var_os("INTERCEPTOR_WRITE_SCHEMA").is_some() {
        std::fs::write(path, &schema).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        written, schema,
        "the types of the policy document changed: see the comment above this test"
    );
}

#[test]
fn the_schema_lists_the_fields_that_the_reader_accepts() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
    let fields = |schema: &serde_json::Value| {
        assert_eq!(schema["additionalProperties"], false, "{schema:#}");
        schema["properties"].as_object().unwrap().keys().cloned().collect::<HashSet<_>>()
    };
    let known =
        |fields: &[&str]| fields.iter().map(|&field| field.to_owned()).collect::<HashSet<_>>();
    assert_eq!(fields(&schema), known(&read::DOCUMENT));
    let definitions = &schema["$defs"];
    assert_eq!(fields(&definitions["NetworkDocument"]), known(&read::NETWORK));
    assert_eq!(fields(&definitions["CredentialDocument"]), known(&read::CREDENTIAL));
    assert_eq!(fields(&definitions["EndpointDocument"]), known(&read::ENDPOINT));
    assert_eq!(fields(&definitions["InjectDocument"]), known(&read::INJECT));
    assert_eq!(fields(&definitions["LimitsDocument"]), known(&read::LIMITS));
    assert_eq!(fields(&definitions["UpstreamDocument"]), known(&read::UPSTREAM));
    assert_eq!(fields(&definitions["ClientCertDocument"]), known(&read::CLIENT_CERT));
    assert_eq!(
        definitions["CredentialDocument"]["anyOf"],
        serde_json::json!([{ "required": ["key"] }, { "required": ["client_cert"] }])
    );
    assert_eq!(
        definitions["EndpointDocument"]["required"],
        serde_json::json!(["methods", "paths"])
    );
}
