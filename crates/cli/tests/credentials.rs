//! Credentials as AWS users expect them, each from its own place, with the real program against a real S3 server that
//! checks every signature. None of the secrets ever shows in what is said, however much is said.

#[path = "../../snapshot/tests/common/s3.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod s3;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use s3::S3Server;

/// What the server's keys are.
const ID: &str = "AKTEST";
const SECRET: &str = "SKTEST";

/// Other secrets that pass through the program.
const TOKEN: &str = "metadata-token-2f7c";
const BEARER: &str = "container-token-91ab";
const IDENTITY: &str = "web-identity-token-5d0e";

pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// `lifeboat list` in the bucket, with an environment of nothing but `variables` and what it needs to run.
fn list(home: &Path, server: &S3Server, option: &str, variables: &[(&str, &str)]) -> Output {
    let store = format!("s3://bucket/some/prefix?endpoint=http://127.0.0.1:{}{option}", server.port);
    Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["-vv", "list", "--store", &store])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(variables.iter().copied())
        .output()
        .expect("started")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_let_in(output: &Output) {
    let said = said(output);
    assert!(output.status.success(), "{said}");
    keeps_secrets(&said);
}

fn keeps_secrets(said: &str) {
    for secret in [SECRET, TOKEN, BEARER, IDENTITY, "wrong-secret"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}

/// A server on loopback that answers `METHOD /path` with a body, where `header` is there; 404 or 401 otherwise.
fn answering(routes: &[(&str, String)], header: Option<(&'static str, &'static str)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let routes: BTreeMap<String, String> =
        routes.iter().map(|(route, body)| ((*route).to_owned(), body.clone())).collect();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut lines = BufReader::new(&client).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            let headers: Vec<String> =
                lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
            let route = first.rsplit_once(' ').map_or("", |(route, _)| route).to_owned();
            let has = |(name, value): &(&str, &str)| headers.contains(&format!("{name}: {value}"));
            let is_put = first.starts_with("PUT");
            let (status, body) = match routes.get(&route) {
                Some(_) if !is_put && header.is_some_and(|header| !has(&header)) => ("401 Unauthorized", ""),
                Some(body) => ("200 OK", body.as_str()),
                None => ("404 Not Found", ""),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = (&client).write_all(answer.as_bytes()); // it has gone
        }
    });
    port
}

/// A server on loopback that speaks TLS and answers every request with `status` and `body`; with it, the file with
/// the authority that vouches for it, and what it was asked.
fn answering_over_tls(
    home: &Path,
    status: &'static str,
    body: String,
) -> (u16, String, std::sync::mpsc::Receiver<String>) {
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test was first
    let key = || rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = key();
    let authority_file = home.join("authority.pem");
    let certified = authority.self_signed(&authority_key).expect("signed");
    fs::write(&authority_file, certified.pem()).expect("written");
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let own_key = key();
    let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let own = own.signed_by(&own_key, &issuer).expect("signed");
    let secret = rustls::pki_types::PrivateKeyDer::try_from(own_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], secret)
        .expect("a certificate and its key");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("configured");
            let mut stream = rustls::StreamOwned::new(connection, client);
            if let Some(request) = head_of(&mut stream) {
                let _ = sender.send(request); // the test is over
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()); // it has gone
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    (port, authority_file.to_string_lossy().into_owned(), asked)
}

/// A request up to its empty line; `None` where the other side breaks off.
fn head_of(stream: &mut impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).ok()
}

fn temporary() -> String {
    format!(
        "{{\"AccessKeyId\":\"{ID}\",\"SecretAccessKey\":\"{SECRET}\",\"Token\":\"\",\"Code\":\"Success\",\
         \"Expiration\":\"2099-01-01T00:00:00Z\",\"LastUpdated\":\"2020-01-01T00:00:00Z\",\"Type\":\"AWS-HMAC\"}}"
    )
}

#[test]
fn keys_come_from_the_environment() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let keys = [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    is_let_in(&list(home.path(), &server, "", &keys));
}

#[test]
fn a_wrong_secret_is_denied_and_told_to_nobody() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let keys = [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", "wrong-secret")];
    let output = list(home.path(), &server, "", &keys);
    assert!(!output.status.success());
    assert!(said(&output).contains("does not allow"), "{}", said(&output));
    keeps_secrets(&said(&output));
}

#[test]
fn keys_come_from_profiles_of_the_shared_files() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    fs::create_dir(home.path().join(".aws")).expect("made");
    let keys = format!("aws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n");
    fs::write(
        home.path().join(".aws/credentials"),
        format!("[default]\naws_access_key_id = {ID}\naws_secret_access_key = wrong-secret\n[right]\n{keys}"),
    )
    .expect("written");
    let printed = format!("{{\"Version\":1,\"AccessKeyId\":\"{ID}\",\"SecretAccessKey\":\"{SECRET}\"}}");
    fs::write(home.path().join("printed"), printed).expect("written");
    let config = format!("[profile process]\ncredential_process = cat {}/printed\n", home.path().display());
    fs::write(home.path().join(".aws/config"), config).expect("written");
    is_let_in(&list(home.path(), &server, "&profile=right", &[]));
    is_let_in(&list(home.path(), &server, "", &[("AWS_PROFILE", "right")]));
    is_let_in(&list(home.path(), &server, "&profile=process", &[]));
    let other = home.path().join("elsewhere");
    fs::write(&other, format!("[default]\n{keys}")).expect("written");
    let elsewhere = other.to_string_lossy().into_owned();
    is_let_in(&list(home.path(), &server, "", &[("AWS_SHARED_CREDENTIALS_FILE", &elsewhere)]));
    for (option, part) in [("", "does not allow"), ("&profile=none", "is in none of the shared")] {
        let output = list(home.path(), &server, option, &[]);
        assert!(!output.status.success() && said(&output).contains(part), "{}", said(&output));
        keeps_secrets(&said(&output));
    }
}

#[test]
fn keys_come_from_a_containers_role() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let port = answering(&[("GET /role", temporary())], Some(("authorization", BEARER)));
    let token = home.path().join("token");
    fs::write(&token, BEARER).expect("written");
    let token = token.to_string_lossy().into_owned();
    let uri = format!("http://127.0.0.1:{port}/role");
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
    ];
    is_let_in(&list(home.path(), &server, "", &variables));
}

#[test]
fn a_containers_full_uri_without_a_token_file_is_an_error_that_says_so() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/role"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", BEARER),
    ];
    let output = list(home.path(), &server, "", &variables);
    assert!(!output.status.success());
    assert!(said(&output).contains("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), "{}", said(&output));
    keeps_secrets(&said(&output));
}

/// Its address is fixed and not of this machine; a proxy on loopback stands for it.
#[test]
fn keys_come_from_the_container_agents_fixed_address() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let port = answering(&[("GET http://169.254.170.2/v2/credentials/mine", temporary())], None);
    let proxy = format!("http://127.0.0.1:{port}");
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/mine"),
        ("http_proxy", proxy.as_str()),
        ("no_proxy", "127.0.0.1"),
    ];
    is_let_in(&list(home.path(), &server, "", &variables));
}

#[test]
fn keys_come_from_the_instances_role_through_imdsv2() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let routes = [
        ("PUT /latest/api/token", TOKEN.to_owned()),
        ("GET /latest/meta-data/iam/security-credentials/", "my-role".to_owned()),
        ("GET /latest/meta-data/iam/security-credentials/my-role", temporary()),
    ];
    let port = answering(&routes, Some(("x-aws-ec2-metadata-token", TOKEN)));
    let endpoint = format!("http://127.0.0.1:{port}");
    let variables =
        [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str()), ("AWS_EC2_METADATA_DISABLED", "false")];
    is_let_in(&list(home.path(), &server, "", &variables));
}

/// As a pod on EKS has them. STS is only ever asked over TLS.
#[test]
fn keys_come_from_a_web_identity() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let token = home.path().join("token");
    fs::write(&token, IDENTITY).expect("written");
    let token = token.to_string_lossy().into_owned();
    let keys = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>{ID}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken></SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    );
    let list_with = |status, body: String| {
        let (port, authority, asked) = answering_over_tls(home.path(), status, body);
        let endpoint = format!("https://localhost:{port}");
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/worker"),
            ("AWS_ENDPOINT_URL_STS", &endpoint),
            ("SSL_CERT_FILE", &authority),
        ];
        (list(home.path(), &server, "", &variables), asked)
    };
    let (output, asked) = list_with("200 OK", keys);
    is_let_in(&output);
    let asked = asked.try_recv().expect("STS was asked");
    for part in ["Action=AssumeRoleWithWebIdentity", "role%2Fworker", IDENTITY] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    let denied = "<Error><Code>AccessDenied</Code><Message>no such role</Message></Error>".to_owned();
    let (output, _) = list_with("403 Forbidden", denied);
    assert!(!output.status.success());
    keeps_secrets(&said(&output));
}

/// No name service here knows a bucket's host: the server stands in as its own proxy.
#[test]
fn a_bucket_in_the_hosts_name_is_found() {
    let Some(server) = S3Server::start_as(&["--domain", "s3.test"]) else { return };
    let home = temp();
    let through = |port: u16| {
        Command::new(env!("CARGO_BIN_EXE_lifeboat"))
            .args(["doctor", "--store", "s3://bucket/some/prefix?endpoint=http://s3.test&path_style=false"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs([("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET)])
            .env("http_proxy", format!("http://127.0.0.1:{port}"))
            .output()
            .expect("started")
    };
    let found = said(&through(server.port));
    assert!(found.contains("path_style=false takes, keeps and protects objects"), "{found}");
    // The server would take the other style as well.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a request");
        head_of(&mut client)
    });
    through(port);
    let asked = asked.join().expect("no panic").expect("a request");
    assert!(asked.contains(" http://bucket.s3.test/some/prefix/"), "{asked}");
}

#[test]
fn without_any_credentials_the_error_says_where_they_may_come_from_and_nobody_is_asked() {
    let Some(server) = S3Server::start() else { return };
    let home = temp();
    let output = list(home.path(), &server, "", &[]);
    assert!(!output.status.success());
    assert!(said(&output).contains("no credentials"), "{}", said(&output));
}

#[test]
fn credentials_in_a_url_are_refused_and_not_repeated() {
    let home = temp();
    for store in [
        "s3://AKTEST:wrong-secret@bucket/prefix",
        "s3://bucket/prefix?secret_access_key=wrong-secret",
        "gs://key:wrong-secret@bucket",
        "https://key:wrong-secret@host/bucket",
    ] {
        for command in [&["list", "--store", store][..], &["doctor", "--store", store]] {
            let output = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
                .args(command)
                .env("HOME", home.path())
                .env("XDG_STATE_HOME", home.path())
                .env("AWS_EC2_METADATA_DISABLED", "true")
                .output()
                .expect("started");
            assert!(!output.status.success(), "{store}");
            keeps_secrets(&said(&output));
        }
    }
}
