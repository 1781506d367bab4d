//! The log on standard error, which the command shares.

use interceptor_tests::Lab;
use serde_json::json;

#[test]
fn a_command_that_makes_standard_error_non_blocking_and_fills_it_ends_nothing() {
    // Node makes its standard streams non-blocking, and an attacker also fills them.
    Lab::test(|lab| {
        let policy =
            lab.governed("api.example.test", json!([{ "methods": ["GET"], "paths": ["/v1/"] }]));
        let outcome = lab.sandbox(&policy).at_origin("api.example.test").python(
            "import os, threading, urllib.request\n\
             os.set_blocking(2, False)\n\
             done = threading.Event()\n\
             def fill():\n\
             \x20   left = 32 << 20\n\
             \x20   while left > 0 and not done.is_set():\n\
             \x20       try: left -= os.write(2, b'x' * 4095 + b'\\n')\n\
             \x20       except BlockingIOError: pass\n\
             threading.Thread(target=fill).start()\n\
             for number in range(20):\n\
             \x20   print(urllib.request.urlopen(f'https://api.example.test/v1/{number}').status)\n\
             done.set()\n",
        );
        outcome.success();
        assert_eq!(outcome.out(), "200\n".repeat(20));
        assert_eq!(lab.seen().len(), 20);
    });
}
