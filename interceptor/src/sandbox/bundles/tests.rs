use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const WIDE: Bounds = Bounds { time: Duration::from_secs(60), ..BOUNDS };

fn authority() -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec!["sandbox.test".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .into()
}

fn of_certificates(count: usize) -> String {
    let certificates: Vec<_> = (0..count).map(|_| authority()).collect();
    pem(&certificates)
}

fn write(directory: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The names, below `directory`, found with this environment.
fn found(directory: &Path, environment: &[&str], bounds: Bounds) -> Vec<String> {
    let ours = authority();
    let environment: Vec<_> = environment.iter().map(Into::into).collect();
    let places = Places::of(&[], &environment, directory, None);
    let own = fs::canonicalize(directory).unwrap();
    let mut names = Vec::new();
    for bundle in find(&places, std::slice::from_ref(&ours), bounds) {
        let merged = certificates(&bundle.content);
        assert!(merged[0] == ours && merged.len() > 1);
        let path = fs::read_link(path_of(&bundle.file)).unwrap();
        if let Ok(below) = path.strip_prefix(&own) {
            names.push(below.to_str().unwrap().to_owned());
        }
    }
    names.sort();
    names
}

#[test]
fn bundles_of_packages_are_found_in_the_working_directory_and_in_environments() {
    let directory = tempfile::tempdir().unwrap();
    let (few, many) = (of_certificates(1), of_certificates(MANY));
    let with_key = format!("{few}{}", rcgen::KeyPair::generate().unwrap().serialize_pem());
    let packages = ".venv/lib/python3.11/site-packages";
    for (name, content) in [
        (&*format!("{packages}/certifi/cacert.pem"), &few),
        (&format!("{packages}/pip/_vendor/certifi/cacert.pem"), &few),
        (&format!("{packages}/some_sdk/tls/ca-bundle.crt"), &few),
        ("elsewhere/lib/python3.12/site-packages/botocore/cacert.pem", &few),
        ("named/certifi/cacert.pem", &few),
        ("node_modules/stripe/lib/ca-certificates.crt", &few),
        ("vendor/stripe/stripe-php/data/ca-certificates.crt", &few),
        ("sdk/cacert.pem", &many),
        // The user's own: few certificates, and no package.
        ("tests/certs/cacert.pem", &few),
        ("node_modules/stripe/lib/other.crt", &few),
        (".git/certifi/cacert.pem", &few),
        ("node_modules/sdk/test/ca-and-key.pem", &with_key),
    ] {
        write(directory.path(), name, content);
    }
    write(directory.path(), "certifi/cacert.pem", "no certificate");
    write(directory.path(), "botocore/cacert.pem", "");
    let expected = [
        ".venv/lib/python3.11/site-packages/certifi/cacert.pem",
        ".venv/lib/python3.11/site-packages/pip/_vendor/certifi/cacert.pem",
        ".venv/lib/python3.11/site-packages/some_sdk/tls/ca-bundle.crt",
        "elsewhere/lib/python3.12/site-packages/botocore/cacert.pem",
        "named/certifi/cacert.pem",
        "node_modules/stripe/lib/ca-certificates.crt",
        "sdk/cacert.pem",
        "vendor/stripe/stripe-php/data/ca-certificates.crt",
    ];
    assert_eq!(found(directory.path(), &[], WIDE), expected);
}

#[test]
fn interpreters_and_variables_lead_to_packages() {
    let directory = tempfile::tempdir().unwrap();
    let (root, work) = (fs::canonicalize(directory.path()).unwrap(), directory.path().join("work"));
    fs::create_dir(&work).unwrap();
    for name in [
        "by-path/lib/python3.12/site-packages/certifi/cacert.pem",
        "by-link/lib/python3.13/site-packages/certifi/cacert.pem",
        "by-variable/lib/python3.12/site-packages/certifi/cacert.pem",
        "python-path/grpc/_cython/_credentials/roots.pem",
        "node-path/sdk/cacert.pem",
        "unknown/certifi/cacert.pem",
    ] {
        write(&root, name, of_certificates(1));
    }
    for program in ["by-path/bin/python3", "by-link/bin/python3.13"] {
        write(&root, program, "");
    }
    fs::create_dir(root.join("bin")).unwrap();
    symlink("../by-link/bin/python3.13", root.join("bin/python3")).unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    let environment = [
        format!("PATH={}:{}:/no/such", at("by-path/bin"), at("bin")),
        format!("VIRTUAL_ENV={}", at("by-variable")),
        format!("PYTHONPATH=:{}", at("python-path")),
        "NODE_PATH=../node-path".to_owned(),
    ];
    let lines: Vec<&str> = environment.iter().map(String::as_str).collect();
    let places = Places::of(&[], &lines.iter().map(Into::into).collect::<Vec<_>>(), &work, None);
    let ours = authority();
    let mut names: Vec<_> = find(&places, &[ours], WIDE)
        .iter()
        .filter_map(|bundle| {
            let path = fs::read_link(path_of(&bundle.file)).unwrap();
            Some(
                path.strip_prefix(&root)
                    .ok()?
                    .components()
                    .next()?
                    .as_os_str()
                    .to_str()?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    assert_eq!(names, ["by-link", "by-path", "by-variable", "node-path", "python-path"]);
}

#[test]
fn the_command_leads_to_packages() {
    let directory = tempfile::tempdir().unwrap();
    let (root, work) = (fs::canonicalize(directory.path()).unwrap(), directory.path().join("work"));
    fs::create_dir(&work).unwrap();
    for name in [
        "app2/lib/site-packages/certifi/cacert.pem",
        "tool/lib/python3.12/site-packages/certifi/cacert.pem",
        "app/certifi/cacert.pem",
        "sdk/roots.pem",
    ] {
        write(&root, name, of_certificates(1));
    }
    write(&root, "app/main.py", "");
    write(&root, "tool/bin/agent", "");
    fs::create_dir(root.join("bin")).unwrap();
    symlink("../tool/bin/agent", root.join("bin/agent")).unwrap();
    let found = |command: &[String], environment: &[String]| {
        let lines =
            |lines: &[String]| lines.iter().map(Into::into).collect::<Vec<std::ffi::OsString>>();
        let places = Places::of(&lines(command), &lines(environment), &work, None);
        let found = find(&places, &[authority()], WIDE);
        let paths = found.iter().map(|bundle| fs::read_link(path_of(&bundle.file)).unwrap());
        let below = paths.filter_map(|path| {
            Some(path.strip_prefix(&root).ok()?.components().next()?.as_os_str().to_owned())
        });
        below.collect::<Vec<_>>()
    };
    let at = |name: &str| root.join(name).display().to_string();
    assert_eq!(found(&["../tool/bin/agent".into()], &[]), ["tool"]);
    assert_eq!(found(&["agent".into()], &[format!("PATH={}", at("bin"))]), ["tool"]);
    assert_eq!(found(&["x".into(), at("app/main.py")], &[]), ["app"]);
    assert_eq!(found(&["x".into(), format!("--ca={}", at("sdk/roots.pem"))], &[]), ["sdk"]);
    assert_eq!(
        found(&["x".into(), "-c".into(), format!("load('{}')", at("sdk/roots.pem"))], &[]),
        ["sdk"]
    );
    let program = format!("sys.path.insert(0, '{}')", at("app2/lib/site-packages"));
    assert_eq!(found(&["x".into(), "-c".into(), program], &[]), ["app2"]);
    assert_eq!(found(&["x".into(), "--ca".into(), "../sdk/roots.pem".into()], &[]), ["sdk"]);
    assert_eq!(found(&["x".into(), format!("--data=@{}", at("sdk/roots.pe"))], &[]), [""; 0]);
}

#[test]
fn a_directory_that_deceives_leads_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let (work, outside) = (directory.path().join("work"), directory.path().join("outside"));
    write(&outside, "certifi/cacert.pem", of_certificates(1));
    write(&outside, "key", format!("sk-real\n{}", of_certificates(1)));
    let packages = work.join("lib/site-packages");
    fs::create_dir_all(packages.join("botocore")).unwrap();
    symlink("/etc/shadow", packages.join("botocore/cacert.pem")).unwrap();
    symlink(outside.join("certifi"), packages.join("certifi")).unwrap();
    symlink(&outside, work.join("linked")).unwrap();
    fs::create_dir_all(packages.join("requests")).unwrap();
    nix::unistd::mkfifo(&packages.join("requests/cacert.pem"), nix::sys::stat::Mode::S_IRWXU)
        .unwrap();
    fs::create_dir_all(packages.join("httplib2/cacerts.txt")).unwrap();
    let large = File::create(packages.join("roots.pem")).unwrap();
    large.set_len(MAX_FILE + 1).unwrap();
    assert_eq!(found(&work, &[], WIDE), [""; 0]);

    // A hard link to a file with a secret: only its certificates are shown.
    fs::hard_link(outside.join("key"), packages.join("cacert.pem")).unwrap();
    let places = Places::of(&[], &[], &work, None);
    let found = find(&places, &[authority()], WIDE);
    let [bundle] = found.as_slice() else { panic!("{found:?}") };
    let text = String::from_utf8(bundle.content.clone()).unwrap();
    assert!(!text.contains("sk-real") && certificates(text.as_bytes()).len() == 2, "{text}");
}

#[test]
fn what_the_user_may_not_read_is_not_read_for_it() {
    use super::super::as_user::AsUser;
    use super::super::user::UserIdentity;
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "open/certifi/cacert.pem", of_certificates(1));
    write(directory.path(), "closed/certifi/cacert.pem", of_certificates(1));
    write(directory.path(), "roots/certifi/cacert.pem", of_certificates(1));
    let mode = |name: &str, mode| {
        fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    mode("closed", 0o700);
    mode("roots/certifi/cacert.pem", 0o640);
    let rights = AsUser::begin(&UserIdentity::choose(Some("nobody"), None).unwrap()).unwrap();
    assert_eq!(found(directory.path(), &[], WIDE), ["open/certifi/cacert.pem"]);
    drop(rights);
    assert_eq!(found(directory.path(), &[], WIDE).len(), 3);
}

#[test]
fn the_search_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..40 {
        write(directory.path(), &format!("{number}/certifi/cacert.pem"), of_certificates(1));
    }
    let deep: String = (0..DEPTH + 1).map(|level| format!("{level}/")).collect();
    write(directory.path(), &format!("deep/{deep}certifi/cacert.pem"), of_certificates(1));
    assert_eq!(found(directory.path(), &[], WIDE).len(), 40);
    let none = Bounds { time: Duration::ZERO, ..BOUNDS };
    assert_eq!(found(directory.path(), &[], none), [""; 0]);
    let few = Bounds { entries: 45, ..WIDE };
    assert!(found(directory.path(), &[], few).len() < 10);
    let three = Bounds { bundles: 3, ..WIDE };
    assert!(found(directory.path(), &[], three).len() <= 3);
    let small = Bounds { bytes: 2500, ..WIDE };
    assert!(found(directory.path(), &[], small).len() < 5);
}
