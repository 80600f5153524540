//! The socket as the others see it: who hangs, sends nonsense or too much, dies, or is somebody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use lifeboat_worker::Error;
use lifeboat_worker::wire::{PARTIAL_BYTES_MAX, Registration, TASKS_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::tests::{World, beside, worker};

/// Sends bytes as they are, and returns the status of the answer; 0 for none.
fn raw(socket: &Path, bytes: &[u8]) -> u16 {
    let mut stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let _ = stream.write_all(bytes); // it may refuse before the end
    let mut head = [0; 12];
    if stream.read_exact(&mut head).is_err() {
        return 0;
    }
    std::str::from_utf8(&head[9..]).expect("digits").parse().expect("a status")
}

#[tokio::test]
async fn nonsense_is_refused_and_harms_nobody() {
    let world = World::new();
    let one = world.machine("one").await;
    let socket = one.socket.clone();
    let statuses = beside(move || {
        let worker = worker(&socket);
        let task = worker.task("t").start().expect("registered");
        let gigabyte =
            format!("PUT /v1/tasks/t/partial HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1u64 << 30);
        let deep = "[".repeat(10_000);
        let statuses = [
            raw(&socket, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
            raw(&socket, b"GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n"),
            raw(&socket, b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n{\"a\""),
            raw(&socket, b"PUT /v1/tasks/%ff/partial HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
            raw(&socket, b"PUT /v1/tasks/other/partial HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
            raw(&socket, gigabyte.as_bytes()),
            raw(
                &socket,
                format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{deep}", deep.len())
                    .as_bytes(),
            ),
            raw(&socket, format!("GET /v1 HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000)).as_bytes()),
            raw(&socket, format!("GET /v1 HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000)).as_bytes()),
        ];
        let too_large = task.checkpoint(&vec![0; PARTIAL_BYTES_MAX + 1], 0.0);
        assert!(matches!(too_large, Err(Error::Refused { status: 413, .. })), "{too_large:?}");
        assert!(task.progress(7.0).is_err() && task.progress(f64::NAN).is_err());
        // Dies in the middle of a request; hangs on many connections.
        for _ in 0..20 {
            let mut dying = UnixStream::connect(&socket).expect("connected");
            dying
                .write_all(b"PUT /v1/tasks/t/partial HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab")
                .expect("sent");
        }
        let hanging: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).expect("connected")).collect();
        task.checkpoint(b"still served", 0.5).expect("served");
        assert_eq!(worker.about().expect("served").expect("an agent").tasks.active, 1);
        drop(hanging);
        statuses
    })
    .await;
    assert_eq!(statuses, [400, 404, 400, 400, 404, 413, 400, 431, 431]);
}

#[tokio::test]
async fn so_many_connections_and_no_more() {
    let world = World::new();
    let one = world.machine("one").await;
    let socket = one.socket.clone();
    beside(move || {
        let worker = worker(&socket);
        let hanging: Vec<_> = (0..400).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
        // Those beyond the bound are closed at once; the worker's own connection is as good as before.
        worker.about().expect("served");
        let closed = hanging
            .iter()
            .filter(|stream| {
                stream.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
                matches!((&**stream).read(&mut [0]), Ok(0))
            })
            .count();
        assert!(closed >= 400 - 256, "{closed}");
    })
    .await;
}

#[tokio::test]
async fn another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let world = World::new();
    let one = world.machine("one").await;
    let mode = std::fs::metadata(&one.socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if !rustix::process::geteuid().is_root() {
        return; // only root can become another user
    }
    // Even where somebody opened every door on the way.
    for path in one.socket.ancestors().take_while(|path| path.starts_with(world.temp.path())) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("set");
    }
    let socket = one.socket.clone();
    let output = beside(move || {
        std::process::Command::new("python3")
            .args(["-c", "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'GET /v1 HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'); print(len(s.recv(100)))"])
            .arg(&socket)
            .current_dir("/")
            .uid(65_534)
            .gid(65_534)
            .output()
            .expect("python3 runs")
    })
    .await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    // Closed without an answer: an empty read, or a write into a closed socket.
    assert!(said.trim() == "0" || error.contains("Error") && !error.contains("Permission"), "{said} {error}");
}

/// Sends `begin`, then one byte of `drip` every second, until the server ends the connection. Returns what it said,
/// and after how long.
async fn hang(socket: &Path, begin: &[u8], drip: &[u8]) -> (String, Duration) {
    let stream = tokio::net::UnixStream::connect(socket).await.expect("connected");
    let (mut reading, mut writing) = stream.into_split();
    writing.write_all(begin).await.expect("sent");
    let begun = Instant::now();
    let drip = drip.to_vec();
    let dripping = tokio::spawn(async move {
        for byte in drip {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writing.write_all(&[byte]).await.is_err() {
                return None;
            }
        }
        Some(writing) // held open
    });
    let mut said = Vec::new();
    let _ = reading.read_to_end(&mut said).await; // reset is an end, too
    let took = begun.elapsed();
    dripping.abort();
    (String::from_utf8_lossy(&said).into_owned(), took)
}

/// Who it is, what it begins with, what comes after that byte by byte, after how many seconds it loses the connection,
/// what it is told.
type Hanging<'a> = (&'a str, &'a [u8], &'a [u8], u64, &'a str);

/// The clock stands still while anything can be done, and jumps to the next instant when nothing can.
#[tokio::test(start_paused = true)]
async fn who_hangs_loses_the_connection_when_its_time_is_over_and_not_before() {
    let world = World::new();
    let one = world.machine("one").await;
    let registration = Registration { id: "t".into(), ..Registration::default() };
    one.app.registry().register(registration, 1, |_| true).expect("taken in");
    let half = b"PUT /v1/tasks/t/partial HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n";
    let asked = b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n";
    let slow = [b'a'; 90];
    let cases: [Hanging<'_>; 5] = [
        ("says nothing", b"", b"", 30, ""),
        ("stops within the head", b"GET /v1 HT", b"", 30, ""),
        ("sends its head byte by byte", b"GET /v1 HTTP/1.1\r\nx: ", &slow, 30, ""),
        ("stops within the body", half, b"", 10, "HTTP/1.1 408"),
        ("sends its body byte by byte", half, &slow, 10, "HTTP/1.1 408"),
    ];
    for (who, begin, drip, seconds, told) in cases {
        let (said, took) = hang(&one.socket, begin, drip).await;
        let limit = Duration::from_secs(seconds);
        assert!(took >= limit && took < limit + Duration::from_secs(2), "{who}: {took:?}");
        assert!(said.starts_with(told), "{who}: {said}");
    }
    let (said, took) = hang(&one.socket, asked, b"").await;
    assert!(said.starts_with("HTTP/1.1 200") && said.matches("HTTP/1.1").count() == 1, "{said}");
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(32), "idle for {took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_notice_is_not_taken_for_one_that_hangs() {
    let world = World::new();
    let one = world.machine("one").await;
    let mut stream = tokio::net::UnixStream::connect(&one.socket).await.expect("connected");
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let begun = Instant::now();
    let mut said = String::new();
    let mut some = [0; 4096];
    while begun.elapsed() < Duration::from_secs(600) {
        let read = stream.read(&mut some).await.expect("open");
        assert!(read > 0, "closed after {:?}", begun.elapsed());
        said.push_str(&String::from_utf8_lossy(&some[..read]));
    }
    assert!(said.matches(": alive").count() >= 39, "{said}");
}

#[tokio::test]
async fn a_gigabyte_that_is_not_announced_is_not_read_either() {
    let world = World::new();
    let one = world.machine("one").await;
    let socket = one.socket.clone();
    let (sent, status) = beside(move || {
        let task = worker(&socket).task("t").start().expect("registered");
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        stream.set_write_timeout(Some(Duration::from_secs(60))).expect("set");
        let head = "PUT /v1/tasks/t/partial HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x1_0000], b"\r\n"].concat();
        let sent = (0..(1 << 30) / 0x1_0000).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        let mut head = [0; 12];
        let status = stream.read_exact(&mut head).map(|()| String::from_utf8_lossy(&head[9..]).into_owned());
        task.checkpoint(b"still served", 0.5).expect("served");
        (sent * chunk.len(), status)
    })
    .await;
    // What is not read waits in the kernel's buffers.
    assert!(sent < 8 << 20, "{sent} bytes were taken in");
    // A peer that closes while bytes are on their way may take its answer back.
    assert!(!status.as_ref().is_ok_and(|status| status != "413"), "{status:?}");
}

#[tokio::test]
async fn when_there_are_too_many_tasks_the_next_one_is_told_and_the_others_go_on() {
    let world = World::new();
    let one = world.machine("one").await;
    let socket = one.socket.clone();
    let first = beside(move || worker(&socket).task("first").start().expect("registered")).await;
    for n in 1..TASKS_MAX {
        let registration = Registration { id: format!("{n}"), ..Registration::default() };
        one.app.registry().register(registration, 1, |_| true).expect("taken in");
    }
    let socket = one.socket.clone();
    beside(move || {
        let more = worker(&socket).task("more").start().map(drop);
        assert!(matches!(more, Err(Error::Unavailable(_))), "{more:?}");
        first.checkpoint(b"x", 0.5).expect("taken in");
        first.done().expect("done");
        worker(&socket).task("more").start().expect("there is room again").done().expect("done");
    })
    .await;
}
