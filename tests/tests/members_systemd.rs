//! `install daemon` on a machine that systemd manages.

use std::process::Output;

use interceptor_tests::machine::Machine;
use interceptor_tests::people::{out, text};

/// A member's run that asks for what its policy does not permit.
const REFUSED: &str = "/opt/interceptor run -q --profile openai -- sh -c \
                       'id -un; curl -sS -m 20 https://example.org/'";

#[track_caller]
fn is_refused_inside(output: &Output) {
    let said = out(output);
    assert!(said.starts_with("ann\n") && said.contains("\"host_denied\""), "{said}");
}

#[test]
fn a_unit_that_install_writes_serves_members_restarts_and_goes() {
    let machine = Machine::start();
    let interceptor = |words: &[&str]| machine.run(&[&[Machine::INTERCEPTOR], words].concat());
    let systemctl = |words: &[&str]| machine.run(&[&["systemctl"], words].concat());
    out(&machine.run(&["ip", "link", "set", "lo", "up"]));
    out(&machine.run(&["useradd", "-m", "ann"]));

    let dry = out(&interceptor(&["install", "daemon", "--dry-run"]));
    assert!(dry.contains("would start the unit interceptor, now and at each boot"), "{dry}");
    let shown = out(&interceptor(&["install", "daemon"]));
    assert!(shown.contains("start the unit interceptor, now and at each boot"), "{shown}");
    let state = text(&systemctl(&["is-active", "interceptor"]).stdout)
        + &text(&systemctl(&["is-enabled", "interceptor"]).stdout);
    assert_eq!(state, "active\nenabled\n");
    out(&machine.run(&["usermod", "-aG", "interceptor", "ann"]));
    is_refused_inside(&machine.script("ann", REFUSED));

    // The daemon is killed under a run, which ends; systemd starts it again.
    let main = out(&systemctl(&["show", "--property=MainPID", "--value", "interceptor"]));
    let running = std::thread::scope(|scope| {
        let held = "/opt/interceptor run -q --profile openai -- sh -c 'echo up > up; sleep 100'";
        let running = scope.spawn(|| machine.script("ann", held));
        let up = "for n in $(seq 600); do [ ! -s up ] || exit 0; sleep 0.1; done; exit 1";
        out(&machine.script("ann", up));
        out(&systemctl(&["kill", "--signal=KILL", "--kill-whom=main", "interceptor"]));
        running.join().unwrap()
    });
    assert!(!running.status.success(), "{}", text(&running.stderr));
    let again = format!(
        "for n in $(seq 600); do pid=$(systemctl show --property=MainPID --value interceptor); \
         [ $pid = 0 ] || [ $pid = {} ] || ! systemctl -q is-active interceptor || exit 0; \
         sleep 0.1; done; exit 1",
        main.trim()
    );
    out(&machine.run(&["sh", "-c", &again]));
    is_refused_inside(&machine.script("ann", REFUSED));

    out(&systemctl(&["stop", "interceptor"]));
    let stopped = machine.script("ann", REFUSED);
    assert_eq!(stopped.status.code(), Some(125));
    let said = text(&stopped.stderr);
    assert!(said.contains("sudo systemctl start interceptor"), "{said}");
    out(&systemctl(&["start", "interceptor"]));
    is_refused_inside(&machine.script("ann", REFUSED));

    let gone = out(&interceptor(&["install", "daemon", "--uninstall"]));
    assert!(gone.contains("stop the unit interceptor"), "{gone}");
    let left = "ls -d /etc/interceptor /run/interceptor /run/interceptor-trust \
                /etc/systemd/system/interceptor.service; getent group interceptor; true";
    assert_eq!(text(&machine.run(&["sh", "-c", left]).stdout), "");
    let state = systemctl(&["is-active", "interceptor"]);
    assert_eq!(text(&state.stdout), "inactive\n");
    let without = text(&machine.script("ann", REFUSED).stderr);
    assert!(without.contains("sudo interceptor install daemon"), "{without}");
}
