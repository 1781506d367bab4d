//! What a sandbox chooses is text, however many questions it asks.

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::lab::Lab;

use super::{HOST, NEW, curl, daemon, follow, policy, status, waiting};

#[test]
fn o2_what_a_sandbox_chose_steers_no_terminal_and_no_colour_is_written_where_none_is_wanted() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let control = daemon.control().to_str().expect("a path of the test's own");
        let mut command = super::top(lab, &["--control", control]);
        command.env("NO_COLOR", "1");
        let mut terminal = interceptor_tests::terminal::Terminal::start(&command, 24, 80);
        terminal.wait_for("Nothing yet.");
        // What is permitted and what is malformed ends by itself.
        for arguments in [
            ["-X", "GET", &format!("http://{HOST}/%1b%5b2J%0d%0a%e2%80%ae%e2%80%8b")],
            ["-X", "PUT\u{1b}[2J", &format!("http://{HOST}/x")],
            ["-X", "GET", &format!("http://{HOST}/\u{1f600}\u{202e}\u{200b}")],
        ] {
            curl(&guest, &arguments).wait_with_output().expect("curl");
        }
        terminal.wait_for(&format!("{HOST}/%1b%5b2J"));
        let held = curl(&guest, &[&format!("https://{NEW}/%1b%5b2J%e2%80%ae")]);
        terminal.wait_for("Waiting for you: 1 question");
        terminal.wait_for(&format!("GET {NEW}/%1"));
        assert!(terminal.rows()[0].contains("interceptor"), "{}", terminal.text());
        for row in terminal.rows() {
            assert!(row.chars().all(|one| (' '..='~').contains(&one)), "{row}");
        }
        super::answer(&mut terminal, "r", "refused");
        assert_eq!(status(held), "403");
        terminal.press("q");
        terminal.end();
        // Colours are SGR 30 to 49 but for the defaults, and 90 and on.
        let written = terminal.written();
        for sequence in written.split("\u{1b}[").skip(1) {
            let end = sequence.find(|one: char| one.is_ascii_alphabetic()).unwrap_or(0);
            if sequence[end..].starts_with('m') {
                let numbers = sequence[..end].split(';').filter_map(|one| one.parse::<u8>().ok());
                for number in numbers {
                    assert!(number < 30 || [39, 49, 59].contains(&number), "{sequence:?}");
                }
            }
        }
        daemon.finish();
    });
}

#[test]
fn p9_a_flood_of_questions_hides_no_other_sandboxs_at_a_terminal() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let (flood, real) = (daemon.guest(&policy(lab)), daemon.guest(&policy(lab)));
        let mut terminal = follow(lab, &daemon);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut plan = Plan::https(NEW, "h2");
                for (one, two) in ('a'..='h').flat_map(|one| ('a'..='h').map(move |two| (one, two)))
                {
                    plan = plan.ask("GET", &format!("/{one}{two}"));
                }
                flood.fetch(&plan)
            });
            terminal.wait_for("more of the same sandboxes");
            let held = curl(&real, &[&format!("https://{NEW}/the-real-one")]);
            terminal.wait_for("/the-real-one");
            // It is the second, as the oldest of its sandbox, and is answered by itself.
            terminal.press("\t");
            terminal.wait_for(&format!("GET {NEW}/the-real-one"));
            super::answer(&mut terminal, "a", "approved");
            assert_eq!(status(held), "200");
            assert!(waiting(&daemon) > 1);
            daemon.remove(&flood);
            asking.join().expect("it ends");
        });
        terminal.press("q");
        terminal.end();
        daemon.finish();
    });
}
