//! Command-line clients: wget, and the package managers pip and npm, each as it comes with the
//! system. curl and openssl are in `real_clients.rs`, where every capability is tested by them.

use interceptor_tests::clients::PYTHON;
use interceptor_tests::clients::conversation::{self, HOST, ORIGIN};
use interceptor_tests::{Lab, command};

#[test]
fn curl_holds_the_whole_conversation() {
    for (option, protocol) in [("--http1.1", "h1"), ("--http2", "h2")] {
        Lab::test(|lab| {
            let script = format!(
                "ask() {{ curl -sS {option} -H \"authorization: Bearer $LAB_API_KEY\" \"$@\"; }}; \
                 curl --version | sed -n '1s/curl/version/p'; head -c 3000000 /dev/zero > zeros; \
                 echo 'echo 200'; ask --fail {ORIGIN}/v1/lab/echo; echo upload $(ask -w \
                 '%{{http_code}} ' -o body --data-binary @zeros {ORIGIN}/v1/lab/upload; cat \
                 body); ask -N {ORIGIN}/v1/lab/events/3 | sed -n 's/^data: //p'; echo refused \
                 $(ask -w '%{{http_code}} ' -o body -X DELETE {ORIGIN}/v1/models/m) \"$(cat \
                 body)\""
            );
            let outcome = lab.sandbox(&conversation::policy(lab)).at_origin(HOST).shell(&script);
            conversation::hold(lab, &outcome, protocol);
        });
    }
}

#[test]
fn wget_holds_the_whole_conversation() {
    Lab::test(|lab| {
        // wget knows HTTP/1.1 only, and ends with 8 where the server refuses.
        let script = format!(
            "ask() {{ wget -q -O - --header \"authorization: Bearer $LAB_API_KEY\" \"$@\"; }}; \
             wget --version | sed -n '1s/GNU Wget/version/p'; head -c 3000000 /dev/zero > zeros; \
             ask {ORIGIN}/v1/lab/echo > body && echo 'echo 200'; cat body; ask --post-file zeros \
             {ORIGIN}/v1/lab/upload > body && echo upload 200 $(cat body); ask \
             {ORIGIN}/v1/lab/events/3 | sed -n 's/^data: //p'; ask --content-on-error --method \
             DELETE {ORIGIN}/v1/models/m > body; [ $? = 8 ] && echo refused 403 \"$(cat body)\""
        );
        let outcome = lab.sandbox(&conversation::policy(lab)).at_origin(HOST).shell(&script);
        conversation::hold(lab, &outcome, "h1");
    });
}

const INDEX: &str = "packages.example.test";

#[test]
fn pip_downloads_from_an_index() {
    Lab::test(|lab| {
        // A wheel is a ZIP archive with three files.
        let wheel = "lab_demo-1.0-py3-none-any.whl";
        let make = format!(
            "import zipfile\nwith zipfile.ZipFile('{wheel}', 'w') as wheel:\n\x20   info = \
             'lab_demo-1.0.dist-info/'\n\x20   wheel.writestr('lab_demo.py', \
             'print(\"installed\")\\n')\n\x20   wheel.writestr(info + 'METADATA', \
             'Metadata-Version: 2.1\\nName: lab-demo\\nVersion: 1.0\\n')\n\x20   \
             wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: \
             lab\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\x20   wheel.writestr(info + \
             'RECORD', '')\n"
        );
        let made = std::process::Command::new(PYTHON)
            .args(["-c", &make])
            .current_dir(lab.directory())
            .status();
        assert!(made.expect("Debian's python3").success());
        let page = format!("<!DOCTYPE html><a href=\"/files/{wheel}\">{wheel}</a>");
        let content = std::fs::read(lab.directory().join(wheel)).expect("the wheel");
        serve(lab, "/simple/lab-demo/", "text/html", page.into_bytes());
        serve(lab, &format!("/files/{wheel}"), "application/octet-stream", content);
        let policy = lab.governed(
            INDEX,
            serde_json::json!([{ "methods": ["GET"], "paths": ["/simple/", "/files/"] }]),
        );
        let script = format!(
            "set -e; {PYTHON} -m pip --version; \
             {PYTHON} -m pip install --quiet --no-input --no-cache-dir --disable-pip-version-check \
               --target installed --index-url https://{INDEX}/simple/ lab-demo; \
             PYTHONPATH=installed {PYTHON} -m lab_demo"
        );
        let outcome = lab.sandbox(&policy).at_origin(INDEX).shell(&script);
        outcome.success();
        assert!(outcome.out().ends_with("installed\n"), "{}\n{}", outcome.out(), outcome.tail());
        conversation::assert_real_key(lab, &["/simple/lab-demo/", &format!("/files/{wheel}")]);
    });
}

#[test]
fn npm_installs_from_a_registry() {
    Lab::test(|lab| {
        // A package is a compressed archive of a directory `package`.
        let script = "mkdir package && echo '{\"name\":\"lab-demo\",\"version\":\"1.0.0\"}' > \
                      package/package.json && echo 'console.log(\"installed\")' > \
                      package/index.js && tar -czf lab-demo-1.0.0.tgz package";
        let made = std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(lab.directory())
            .status();
        assert!(made.expect("a shell").success());
        let archive =
            std::fs::read(lab.directory().join("lab-demo-1.0.0.tgz")).expect("the archive");
        let tarball = format!("https://{INDEX}/files/lab-demo-1.0.0.tgz");
        let about = serde_json::json!({
            "name": "lab-demo", "dist-tags": { "latest": "1.0.0" },
            "versions": { "1.0.0": {
                "name": "lab-demo", "version": "1.0.0", "dist": { "tarball": tarball },
            } },
        });
        serve(lab, "/lab-demo", "application/json", about.to_string().into_bytes());
        serve(lab, "/files/lab-demo-1.0.0.tgz", "application/octet-stream", archive);
        let policy = lab.governed(
            INDEX,
            serde_json::json!([{ "methods": ["GET"], "paths": ["/lab-demo", "/files/"] }]),
        );
        let script = format!(
            "set -e; npm --version; npm install --silent --no-audit --no-fund --no-update-notifier \
             --registry https://{INDEX}/ lab-demo; node -e 'require(\"lab-demo\")'"
        );
        let outcome = lab.sandbox(&policy).at_origin(INDEX).run(&command!["sh", "-c", script]);
        outcome.success();
        assert!(outcome.out().ends_with("installed\n"), "{}\n{}", outcome.out(), outcome.tail());
        conversation::assert_real_key(lab, &["/lab-demo", "/files/lab-demo-1.0.0.tgz"]);
    });
}

fn serve(lab: &Lab, path: &str, kind: &'static str, content: Vec<u8>) {
    let mut files = lab.shared().files.lock().expect("no test thread panicked");
    files.insert(path.to_owned(), (kind, content));
}
