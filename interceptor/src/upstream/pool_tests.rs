use interceptor_policy::CredentialId;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::audit::Audit;
use crate::metrics::Metrics;
use crate::upstream::UpstreamOptions;
use crate::upstream::test_support::{policy, road};

/// A pool whose every dial goes to a listener that takes whatever comes, and that listener.
async fn rig(generation: Generation) -> (Arc<Pool>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rule = format!("api.example.com:80:{}", listener.local_addr().unwrap());
    let overrides = [rule.parse().unwrap()].into_iter().collect();
    let upstream = Upstream::new(UpstreamOptions { overrides, ..UpstreamOptions::default() });
    let metrics = Metrics::new(Audit::discard().unwrap(), Vec::new).sandbox(&"pool".into());
    (Pool::new(generation, upstream, metrics), listener)
}

fn key(generation: Generation, credential: Option<usize>) -> PoolKey {
    let host = Host::parse("api.example.com").unwrap();
    PoolKey::new(generation, Scheme::Http, host, 80, credential.map(CredentialId))
}

/// The lease of a request that is under way on a connection.
async fn lease(pool: &Arc<Pool>, key: &PoolKey, connection: Connection) -> Lease {
    let Sender::H1(mut sender) = connection.sender else { panic!("HTTP/2 is shared, not leased") };
    sender.ready().await.unwrap();
    let idle =
        Idle { sender, key: key.clone(), address: connection.address, since: Instant::now() };
    Lease { pool: pool.clone(), idle }
}

#[tokio::test]
async fn r9_a_connection_in_use_when_the_rules_are_replaced_is_not_kept() {
    let [before, after] = [Generation::next(), Generation::next()];
    let (pool, listener) = rig(before).await;
    let (policy, way) = (policy("{}"), road());
    let old = key(before, Some(0));
    let connection = pool.get(Terms { policy: &policy, road: &way }, &old, false).await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    lease(&pool, &old, connection).await.give_back();
    // Without a replacement it is kept, and for this key alone.
    assert!(pool.take(&key(before, Some(1)), false).is_none());
    let connection = pool.take(&old, false).unwrap();
    assert!(connection.used);

    let under_way = lease(&pool, &old, connection).await;
    pool.renew(after);
    under_way.give_back();
    // The position names another credential now; and the request of before that is still to be sent
    // asks anew, too.
    for key in [key(after, Some(0)), old] {
        assert!(pool.take(&key, false).is_none() && !pool.has(&key, false));
    }
    assert_eq!(pool.lock().count, 0);
    // Nobody holds it: the origin sees its end.
    assert_eq!(origin.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn r9_a_connection_that_is_being_dialled_when_the_rules_are_replaced_is_not_kept() {
    let [before, after] = [Generation::next(), Generation::next()];
    let (pool, listener) = rig(before).await;
    let (policy, way) = (policy("{}"), road());
    let old = key(before, None);
    let (dialled, ()) =
        tokio::join!(pool.get(Terms { policy: &policy, road: &way }, &old, false), async {
            pool.renew(after)
        });
    lease(&pool, &old, dialled.unwrap()).await.give_back();
    assert!(pool.take(&key(after, None), false).is_none() && pool.take(&old, false).is_none());
    assert_eq!(pool.lock().count, 0);
    drop(listener);

    let (stream, _other) = tokio::io::duplex(1024);
    let (sender, _connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    let address = "192.0.2.1:443".parse().ok();
    pool.share(&old, sender.clone(), address);
    assert!(pool.lock().shared.is_empty());
    let new = key(after, None);
    pool.share(&new, sender, address);
    assert!(pool.take(&new, true).is_some() && pool.take(&old, true).is_none());
    // Of two replacements at once, that of the older rules comes late.
    pool.renew(before);
    assert!(pool.take(&new, true).is_some());
    pool.renew(Generation::next());
    assert!(pool.take(&new, true).is_none());
}

#[tokio::test]
async fn a_connection_of_a_lease_serves_that_lease_alone_and_ends_with_it() {
    let generation = Generation::next();
    let (pool, listener) = rig(generation).await;
    let (policy, way) = (policy("{}"), road());
    let terms = || Terms { policy: &policy, road: &way };
    let (base, [mine, other]) = (key(generation, Some(0)), [Overlay::new(), Overlay::new()]);
    let under = |overlay: &Overlay| base.clone().under(Some(overlay));
    let mut origins = Vec::new();
    for _ in 0..2 {
        let connection = pool.renewed(terms(), &under(&mine), false).await.unwrap();
        origins.push(listener.accept().await.unwrap().0);
        lease(&pool, &under(&mine), connection).await.give_back();
    }
    assert!(pool.take(&base, false).is_none() && pool.take(&under(&other), false).is_none());
    let connection = pool.take(&under(&mine), false).unwrap();
    let under_way = lease(&pool, &under(&mine), connection).await;
    drop(mine);
    pool.expire();
    under_way.give_back();
    assert_eq!(pool.lock().count, 0);
    // The one that was idle and the one in use.
    for mut origin in origins {
        assert_eq!(origin.read(&mut [0; 1]).await.unwrap(), 0);
    }

    let (stream, _other) = tokio::io::duplex(1024);
    let (sender, _connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    pool.share(&under(&other), sender, None);
    assert!(pool.take(&base, true).is_none() && pool.take(&under(&other), true).is_some());
    drop(other);
    pool.expire();
    assert!(pool.lock().shared.is_empty());
}

#[tokio::test]
async fn an_empty_pool_keeps_no_clock() {
    let generation = Generation::next();
    let (pool, _listener) = rig(generation).await;
    let (policy, way, key) = (policy("{}"), road(), key(generation, None));
    let mut resting = std::pin::pin!(pool.occupied());
    assert!(polled(resting.as_mut()).await.is_none());
    let connection = pool.get(Terms { policy: &policy, road: &way }, &key, false).await.unwrap();
    let under_way = lease(&pool, &key, connection).await;
    assert!(polled(resting.as_mut()).await.is_none(), "in use, it cannot expire");
    under_way.give_back();
    resting.await;
    pool.occupied().await;
    pool.renew(Generation::next());
    let mut resting = std::pin::pin!(pool.occupied());
    assert!(polled(resting.as_mut()).await.is_none());
}

/// What a future gives if it is polled now.
async fn polled<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
