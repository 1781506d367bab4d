//! Clients with their own roots that read no variable: the sandbox's CA is added to package bundles
//! that are found, and to those the operator names.

use std::fs;
use std::path::Path;
use std::process::Command;

use interceptor_tests::clients::conversation::{HOST, ORIGIN};
use interceptor_tests::clients::{self, PYTHON, conversation};
use interceptor_tests::{Lab, Outcome, command};
use serde_json::json;

const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Prints the origin's answer to a client that trusts only this bundle.
fn with_bundle(bundle: &str) -> String {
    format!(
        "import ssl, urllib.request\ncontext = ssl.create_default_context(cafile={bundle})\ntry: \
         print('answer', urllib.request.urlopen('{ORIGIN}/v1/lab/echo', \
         context=context).status)\nexcept OSError as error: print('no answer', error)"
    )
}

/// A bundle of the system's roots at `path`, which everybody may read.
fn put(path: &Path) {
    fs::create_dir_all(path.parent().expect("a file in a directory")).expect("own directory");
    fs::copy(ROOTS, path).expect("own directory");
}

#[track_caller]
fn assert_answer(outcome: &Outcome, expected: bool) {
    let out = outcome.success().out();
    assert_eq!(out.starts_with("answer 200"), expected, "{out}\n{}", outcome.tail());
}

#[test]
fn stripe_for_python_takes_the_roots_that_it_brings() {
    Lab::test(|lab| {
        let host = "api.stripe.com";
        let customer = json!({ "object": "customer", "id": "cus_1", "email": "a@example.test" });
        let customers = json!({ "object": "list", "url": "/v1/customers", "has_more": false,
                                "data": [customer] });
        let page = ("application/json", customers.to_string().into_bytes());
        lab.shared().files.lock().unwrap().insert("/v1/customers".into(), page);
        let rules = json!([{ "methods": ["GET"], "paths": ["/v1/customers"] }]);
        let policy = json!({
            "network": { "allow": [host] },
            "credentials_v2": {
                "stripe": { "key": { "file": lab.key_file() }, "endpoints": rules },
            },
        });
        let sandbox = lab.sandbox(&policy).at_origin(host).with_python_packages();
        let outcome = sandbox.run(&command![PYTHON, clients::script(lab, "python/stripe_sdk.py")]);
        let out = outcome.success().out();
        println!("{out}"); // For --nocapture: what people see.
        assert!(out.contains("key sk_test_proxy-managed-"), "{out}\n{}", outcome.tail());
        assert!(out.contains("customers ['a@example.test']"), "{out}\n{}", outcome.tail());
        let refused = out.lines().find_map(|line| line.strip_prefix("refused ")).unwrap();
        assert!(refused.contains(" 403 ") && refused.contains("/v1/balance"), "{refused}");
        outcome.one_denied("endpoint_denied");
        conversation::assert_real_key(lab, &["/v1/customers"]);
    });
}

#[test]
fn a_virtual_environments_bundles_are_covered_inside_and_untouched_outside() {
    Lab::test(|lab| {
        let made =
            Command::new(PYTHON).args(["-m", "venv", ".venv"]).current_dir(lab.work()).status();
        assert!(made.unwrap().success());
        // What pip brought with it; its directory is named after the version of Python.
        let find = Command::new("sh")
            .args(["-c", "echo .venv/lib/python3*/site-packages/pip/_vendor/certifi/cacert.pem"])
            .current_dir(lab.work())
            .output();
        let bundle = lab.work().join(String::from_utf8(find.unwrap().stdout).unwrap().trim());
        let before = fs::read(&bundle).unwrap();
        let program =
            format!("import pip._vendor.certifi as certifi\n{}", with_bundle("certifi.where()"));
        let outcome = lab.sandbox(&conversation::policy(lab)).at_origin(HOST).run(&command![
            ".venv/bin/python",
            "-c",
            program
        ]);
        assert_answer(&outcome, true);
        assert_eq!(fs::read(&bundle).unwrap(), before);
    });
}

#[test]
fn what_is_elsewhere_is_covered_where_the_operator_names_it_and_nothing_where_the_search_is_off() {
    Lab::test(|lab| {
        let elsewhere = tempfile::tempdir().unwrap();
        fs::set_permissions(elsewhere.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let bundle = elsewhere.path().join("own-roots.crt");
        put(&bundle);
        let sandbox = || {
            let sandbox = lab.sandbox(&conversation::policy(lab)).at_origin(HOST);
            sandbox.env("BUNDLE", &bundle)
        };
        let program = with_bundle("__import__('os').environ['BUNDLE']");
        assert_answer(&sandbox().python(&program), false);
        assert_answer(&sandbox().option("--ca-bundle").option(&bundle).python(&program), true);
        // What the command line names need not be named again.
        let program = with_bundle(&format!("{:?}", bundle.display().to_string()));
        assert_answer(&sandbox().python(&program), true);

        put(&lab.work().join("lib/site-packages/certifi/cacert.pem"));
        let program = with_bundle("'lib/site-packages/certifi/cacert.pem'");
        assert_answer(&sandbox().python(&program), true);
        assert_answer(&sandbox().option("--no-bundle-search").python(&program), false);

        for (path, why) in
            [("/no/such/bundle.pem", "No such file"), ("/etc/hostname", "no certificate")]
        {
            let outcome = sandbox().bare().option("--ca-bundle").option(path).shell("true");
            assert_eq!(outcome.code(), Some(125), "{path}: {}", outcome.err());
            assert!(
                outcome.err().contains(path) && outcome.err().contains(why),
                "{}",
                outcome.err()
            );
        }
    });
}
