//! What the options of a bucket's URL make of each request, seen by a server that only listens.

mod common;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::claimant;
use lifeboat_snapshot::store::{Keys, StoreUrl};
use lifeboat_snapshot::{Wait, Workload, acquire, open};
use object_store::ObjectStoreExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The first line and the headers of a request, in lower case.
type Head = (String, BTreeMap<String, String>);

/// Answers every request with `status` and `body`, and tells what it was asked.
async fn listener(status: &'static str, body: &'static str) -> (u16, Receiver<Head>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (sender, heads) = channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
                if client.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let mut lines = text.split("\r\n");
            let first = lines.next().unwrap_or_default().to_owned();
            let headers = lines.filter_map(|line| line.split_once(": "));
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let _ = sender.send((first, headers)); // the test is over
            let answer = format!(
                "HTTP/1.1 {status}\r\netag: \"x\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = client.write_all(answer.as_bytes()).await; // it has gone
        }
    });
    (port, heads)
}

fn bucket(port: u16, options: &str) -> Workload {
    let text = format!("s3://bucket/pre?endpoint=http://127.0.0.1:{port}{options}");
    let Ok(StoreUrl::S3(mut url)) = text.parse() else { panic!("{text}") };
    url.keys = Some(Keys { id: "AKTEST".to_owned(), secret: "SKTEST".to_owned() });
    let store = open(&StoreUrl::S3(url)).expect("opens");
    Workload::new(store, "work".parse().expect("valid"))
}

#[tokio::test]
async fn encryption_class_metadata_region_and_checksum_reach_the_server_with_every_object() {
    for (options, expected) in [
        ("&encryption=AES256", vec![("x-amz-server-side-encryption", "aes256")]),
        (
            "&encryption=aws:kms&kms_key=alias/mine",
            vec![
                ("x-amz-server-side-encryption", "aws:kms"),
                ("x-amz-server-side-encryption-aws-kms-key-id", "alias/mine"),
            ],
        ),
        ("&encryption=aws:kms", vec![("x-amz-server-side-encryption", "aws:kms")]),
        (
            "&encryption=aws:kms:dsse&kms_key=k",
            vec![
                ("x-amz-server-side-encryption", "aws:kms:dsse"),
                ("x-amz-server-side-encryption-aws-kms-key-id", "k"),
            ],
        ),
        (
            "&storage_class=STANDARD_IA&metadata.team=search",
            vec![("x-amz-storage-class", "standard_ia"), ("x-amz-meta-team", "search")],
        ),
        ("&checksum=sha256", vec![("x-amz-sdk-checksum-algorithm", "sha256")]),
    ] {
        let (port, heads) = listener("200 OK", "").await;
        let work = bucket(port, &format!("&region=eu-north-1{options}"));
        work.store().put(&"work/object".into(), "content".into()).await.expect("taken");
        let (first, headers) = heads.try_recv().expect("asked once");
        assert!(first.starts_with("put /bucket/pre/work/object http"), "{first}: the bucket in the path");
        assert!(headers["authorization"].contains("/eu-north-1/s3/aws4_request"), "{headers:?}");
        for (name, value) in expected {
            let is_optional = name == "x-amz-sdk-checksum-algorithm" && !headers.contains_key(name);
            if is_optional {
                assert!(headers.contains_key("x-amz-checksum-sha256"), "{headers:?}");
                continue;
            }
            assert_eq!(headers.get(name).map(String::as_str), Some(value), "{options}: {headers:?}");
        }
    }
}

#[tokio::test]
async fn what_a_bucket_does_not_offer_is_named_as_the_stores_own_word_at_once() {
    for (code, status) in [
        ("InvalidStorageClass", "400 Bad Request"),
        ("KMS.DisabledException", "400 Bad Request"),
        ("NoSuchBucket", "404 Not Found"),
        ("AccessDenied", "403 Forbidden"),
        ("AuthorizationHeaderMalformed", "400 Bad Request"),
    ] {
        let body: &'static str = Box::leak(format!("<Error><Code>{code}</Code></Error>").into_boxed_str());
        let (port, _heads) = listener(status, body).await;
        let begun = std::time::Instant::now();
        let error = acquire(&bucket(port, ""), &claimant(1), Wait::No).await.expect_err(code);
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(current) = cause {
            text += &format!(": {current}");
            cause = current.source();
        }
        assert!(text.contains(code) || (code == "AccessDenied" && text.contains("does not allow")), "{text}");
        assert!(!text.contains("SKTEST"), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{code}: it is not tried again and again");
    }
}
