//! A sandbox that asks as fast as it can.

use super::*;
use tokio_util::sync::CancellationToken;

/// How many records tell of a look-up, and how many look-ups the others tell of.
async fn told(lab: &Lab) -> (usize, u64) {
    lab.server.flush();
    let recorded = lab.recorded().await;
    let dropped = recorded.iter().filter(|record| record["type"] == "dns_records_dropped");
    let dropped = dropped.map(|record| record["dropped"].as_u64().unwrap()).sum();
    (recorded.iter().filter(|record| record["kind"] == "dns").count(), dropped)
}

#[tokio::test]
async fn x4_a_flood_of_look_ups_is_recorded_at_a_pace_and_the_rest_counted() {
    for (rules, zone) in
        [(ALLOWING, "exfil.example"), (ALLOWING, "cdn.example.com"), ("{}", "example")]
    {
        let lab = Lab::new(rules).await;
        let start = Instant::now();
        for number in 0..6000 {
            lab.ask(&format!("n{number}.{zone}"), RecordType::A).await;
        }
        let most = 1024 + 1000 * (start.elapsed().as_secs() as usize + 1);
        let (recorded, dropped) = told(&lab).await;
        assert!((1000..=most).contains(&recorded), "{zone}: {recorded}, at most {most}");
        assert_eq!(recorded as u64 + dropped, 6000, "{zone}");
    }
}

#[tokio::test]
async fn x4_a_flood_for_one_name_is_counted_too() {
    let lab = Lab::new(ALLOWING).await;
    for _ in 0..5000 {
        lab.ask("exfil.example", RecordType::TXT).await;
    }
    let (recorded, dropped) = told(&lab).await;
    assert_eq!(recorded, 1);
    assert!(dropped > 0);
    assert_eq!(lab.rules.turns.load(Ordering::Relaxed), 5000, "each takes its turn");
}

#[tokio::test]
async fn permitted_and_local_names_take_no_turn() {
    let lab = Lab::new(ALLOWING).await;
    for name in ["api.example.com", "missing.example.com", "localhost"] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::MX, RecordType::HTTPS] {
            lab.ask(name, kind).await;
        }
    }
    assert_eq!(lab.rules.turns.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn refusals_that_wait_for_their_turn_keep_nobody_else_waiting() {
    let lab = Lab::new(ALLOWING).await;
    *lab.rules.turn.lock().unwrap() = Duration::from_secs(3600);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(Arc::clone(&lab.server).serve_udp(socket, CancellationToken::new()));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    for number in 0..2000 {
        let label = format!("n{number}");
        client.send(&query(&[label.as_bytes(), b"example"], 1)).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut buffer = [0; 512];
    let answered = async {
        loop {
            client.send(&query(&[b"api", b"example", b"com"], 1)).await.unwrap();
            let received = client.recv(&mut buffer);
            if let Ok(length) = tokio::time::timeout(Duration::from_millis(200), received).await {
                return length.unwrap();
            }
        }
    };
    let length = tokio::time::timeout(Duration::from_secs(60), answered).await.expect("an answer");
    synthetic(&lab, &Message::from_vec(&buffer[..length]).unwrap(), "api.example.com");
    serving.abort();
}
