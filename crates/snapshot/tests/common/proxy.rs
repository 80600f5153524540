//! A TCP proxy in front of a server: it counts, and does to connections what a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_snapshot::store::StoreUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::s3::S3Server;

/// What happens to connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Every so many bytes from the server, the connection is reset.
    pub(crate) reset_after: Option<u64>,
    /// Every so many bytes from the server, one bit is flipped.
    pub(crate) flip_every: Option<u64>,
    /// Every so many connections, nothing is answered at all.
    pub(crate) hang_every: Option<u64>,
}

/// A running proxy; its task ends with the runtime.
pub(crate) struct Proxy {
    port: u16,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
    connections: AtomicU64,
}

impl Proxy {
    pub(crate) async fn start(to: u16, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counts, plan) = (Arc::clone(&shared), plan.clone());
                tokio::spawn(async move { connection(client, to, &plan, &counts).await });
            }
        });
        Self { port, counts }
    }

    /// The same bucket, through the proxy.
    pub(crate) fn store_url(&self, server: &S3Server, options: &str) -> StoreUrl {
        let StoreUrl::S3(mut url) = server.store_url(options) else { panic!("a bucket") };
        url.endpoint = Some(format!("http://127.0.0.1:{}", self.port));
        StoreUrl::S3(url)
    }

    /// Bytes that came from the server so far.
    pub(crate) fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }

    /// Bytes that went to the server so far.
    pub(crate) fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }
}

async fn connection(client: TcpStream, to: u16, plan: &Plan, counts: &Counts) {
    let number = counts.connections.fetch_add(1, Ordering::Relaxed);
    if plan.hang_every.is_some_and(|every| number % every == every - 1) {
        std::future::pending::<()>().await;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            counts.sent.fetch_add(u64::try_from(count).expect("small"), Ordering::Relaxed);
            if to_server.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let length = u64::try_from(count).expect("small");
            let before = counts.received.fetch_add(length, Ordering::Relaxed);
            let crosses =
                |every: Option<u64>| every.is_some_and(|every| before / every != (before + length) / every);
            if crosses(plan.reset_after) {
                break;
            }
            if crosses(plan.flip_every) {
                buffer[count - 1] ^= 1;
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    // The end of one direction ends both: half-open connections are no part of HTTP here.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
