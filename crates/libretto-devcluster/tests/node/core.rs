//! Sandbox, container, exec, file system and network without an API server.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::{Duration, Instant},
};

use libretto_devcluster::node::{
    container::{Container, Identity},
    rootfs::{Mount, Rootfs},
};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::support::{Pod, captured, exec_output, read_all, summary, volume};

pub(crate) fn run(filters: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    macro_rules! cases {
        ($($name:ident),* $(,)?) => {
            $(
                let name = stringify!($name);
                if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
                    let started = Instant::now();
                    runtime.block_on($name());
                    println!("  {name}: ok ({:.0?})", started.elapsed());
                }
            )*
        };
    }
    cases!(
        a_container_is_alone,
        a_container_cannot_touch_the_host,
        failures_say_why,
        identities_are_taken,
        volumes_are_bound,
        sub_paths_stay_inside_their_volume,
        an_unpacked_image_gets_a_writable_layer,
        commands_join_a_container,
        exit_codes_and_signals,
        pods_reach_each_other,
        redis_answers_within_milliseconds,
    );
    ExitCode::SUCCESS
}

/// Runs a container until told to stop, for the tests that kill things.
pub(crate) fn hold(listener: &TcpListener) -> ExitCode {
    let mark = std::env::var("NODE_TEST_MARK").unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let pod = Pod::start("held").await;
        // A daemon in the background too: no session or group ties it to its starter.
        let script = format!("setsid sh -c 'sleep {mark}' & exec sleep {mark}");
        let (streams, _output) = captured();
        let _container = Container::start(&pod.spec(&["sh", "-c", &script], Vec::new()), streams)
            .await
            .unwrap();
        println!("holding {}", listener.local_addr().unwrap().port());
        let (mut client, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut client, b"inside").unwrap();
        drop(client);
        terminate.recv().await;
    });
    ExitCode::from(7)
}

async fn a_container_is_alone() {
    let pod = Pod::start("alone-0").await;
    let (code, text) = pod
        .shell("echo $$ $(hostname) $(ls /proc | grep -c '^[0-9]')")
        .await;
    assert_eq!(code, 0, "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>();
    assert_eq!(words[..2], ["1", "alone-0"]);
    // The shell, and whatever the pipeline runs.
    assert!(words[2].parse::<u32>().unwrap() <= 5, "{text}");
}

async fn a_container_cannot_touch_the_host() {
    let pod = Pod::start("walls").await;
    for script in [
        "touch /usr/x",
        "touch /etc/passwd",
        "cat /etc/shadow",
        "ls /.host/etc",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo b > /proc/sysrq-trigger",
        "mount -t tmpfs none /mnt",
        "mknod /tmp/sda b 8 0",
        "ls /home | grep .",
        "ls /sys/kernel",
    ] {
        let (code, text) = pod.shell(script).await;
        assert_ne!(code, 0, "{script} worked: {text}");
    }
    let (code, text) = pod.shell("touch /tmp/a /run/b /var/tmp/c /root/d && echo x > /dev/null && grep NoNewPrivs /proc/self/status").await;
    assert_eq!((code, text.as_str()), (0, "NoNewPrivs:\t1\n"));
    let mut sealed = pod.spec(&["touch", "/tmp/a"], Vec::new());
    sealed.isolation.as_mut().unwrap().read_only_root = true;
    assert_ne!(pod.output(&sealed).await.0, 0);
}

async fn failures_say_why() {
    let pod = Pod::start("failing").await;
    let missing = pod.path().join("missing");
    for (spec, expected) in [
        (
            pod.spec(&["no-such-program"], Vec::new()),
            "exec: \"no-such-program\": executable file not found in $PATH",
        ),
        (
            pod.spec(&["/etc/passwd"], Vec::new()),
            "exec \"/etc/passwd\": permission denied",
        ),
        (pod.spec(&[], Vec::new()), "no command given"),
        (
            pod.spec(&["true"], vec![volume(&missing, "/data", false)]),
            "mounting a volume at /data: opening it: No such file or directory (os error 2)",
        ),
        (
            pod.spec(&["true"], vec![volume(&pod.path(), "/usr/none", false)]),
            "creating /usr/none: Read-only file system (os error 30)",
        ),
        (
            pod.spec(&["true"], vec![volume(&pod.path(), "/data/../../x", false)]),
            "mountPath \"/data/../../x\" must be absolute and without ..",
        ),
    ] {
        let (streams, _read) = captured();
        let error = Container::start(&spec, streams).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

async fn identities_are_taken() {
    let pod = Pod::start("identity").await;
    let script = "echo $(id -u) $(id -g) $(grep CapEff /proc/self/status)";
    let (_, text) = pod.shell(script).await;
    assert_eq!(text, "0 0 CapEff: 00000000800405fb\n");
    let many_ids = std::fs::read_to_string("/proc/self/uid_map")
        .unwrap()
        .contains("4294967295");
    let mut spec = pod.spec(&["sh", "-c", script], Vec::new());
    spec.identity = Identity {
        user: Some(1000),
        group: Some(2000),
        supplementary_groups: vec![3000],
        capabilities: Some(0),
    };
    if many_ids {
        let (_, text) = pod.output(&spec).await;
        assert_eq!(text, "1000 2000 CapEff: 0000000000000000\n");
    } else {
        let (streams, _read) = captured();
        let error = Container::start(&spec, streams).await.unwrap_err();
        assert!(
            error.to_string().starts_with("becoming user Some(1000)"),
            "{error}"
        );
    }
}

async fn volumes_are_bound() {
    let pod = Pod::start("volumes").await;
    let data = pod.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("in"), "from outside").unwrap();
    let mounts = vec![
        volume(&data.join("in"), "/etc/config/one", true),
        volume(&data, "/data", false),
        volume(&data, "/data/deep/inner", true),
    ];
    let script = "cat /etc/config/one; echo inside > /data/out; touch /data/deep/inner/x 2>&1";
    let (code, text) = pod.output(&pod.spec(&["sh", "-c", script], mounts)).await;
    assert_eq!(
        (code, text.as_str()),
        (
            1,
            "from outsidetouch: cannot touch '/data/deep/inner/x': Read-only file system\n"
        )
    );
    assert_eq!(
        std::fs::read_to_string(data.join("out")).unwrap(),
        "inside\n"
    );
}

async fn sub_paths_stay_inside_their_volume() {
    let pod = Pod::start("subpaths").await;
    let data = pod.path().join("data");
    std::fs::create_dir_all(data.join("a")).unwrap();
    std::fs::write(data.join("a/file"), "deep").unwrap();
    std::os::unix::fs::symlink("/", data.join("root")).unwrap();
    std::os::unix::fs::symlink("../../..", data.join("up")).unwrap();
    let mount = |sub: &str| {
        vec![Mount {
            sub_path: Some(sub.to_owned()),
            ..volume(&data, "/v", false)
        }]
    };
    let (_, text) = pod.output(&pod.spec(&["cat", "/v/file"], mount("a"))).await;
    assert_eq!(text, "deep");
    for sub in ["root/etc", "up", "../.."] {
        let (streams, _read) = captured();
        let spec = pod.spec(&["true"], mount(sub));
        let error = Container::start(&spec, streams)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("opening it"), "{sub}: {error}");
    }
}

async fn an_unpacked_image_gets_a_writable_layer() {
    let pod = Pod::start("image").await;
    let lower = pod.path().join("image");
    for directory in ["bin", "lib", "lib64", "usr"] {
        std::fs::create_dir_all(lower.join(directory)).unwrap();
    }
    std::fs::write(lower.join("marker"), "of the image").unwrap();
    let mut mounts = vec![volume("/usr".as_ref(), "/usr", true)];
    for link in ["bin", "lib", "lib64"] {
        mounts.push(volume(
            &std::path::Path::new("/").join(link).canonicalize().unwrap(),
            &format!("/{link}"),
            true,
        ));
    }
    let script = "cat /marker; echo changed > /marker; touch /new; cat /marker";
    let mut spec = pod.spec(&["sh", "-c", script], mounts);
    spec.isolation.as_mut().unwrap().rootfs = Rootfs::Directory {
        lower: lower.clone(),
        upper: pod.path().join("upper"),
        work: pod.path().join("work"),
    };
    let (code, text) = pod.output(&spec).await;
    assert_eq!((code, text.as_str()), (0, "of the imagechanged\n"));
    assert_eq!(
        std::fs::read_to_string(lower.join("marker")).unwrap(),
        "of the image"
    );
}

async fn commands_join_a_container() {
    let pod = Pod::start("joined").await;
    let spec = pod.spec(&["sleep", "1000"], Vec::new());
    let (streams, _read) = captured();
    let mut container = Container::start(&spec, streams).await.unwrap();
    let (code, text) = exec_output(
        &container,
        &spec,
        &["sh", "-c", "hostname; cat /proc/1/cmdline; exit 3"],
    )
    .await;
    assert_eq!((code, text.as_str()), (3, "joined\nsleep\x001000\x00"));
    let (streams, _read) = captured();
    let exec = libretto_devcluster::node::exec::ExecSpec::new(
        &container,
        &spec,
        vec!["nothing-here".to_owned()],
    );
    let error = libretto_devcluster::node::exec::Exec::start(&exec, streams)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "exec: \"nothing-here\": executable file not found in $PATH"
    );
    container.signal(Signal::SIGKILL);
    assert_eq!(container.wait().await, 137);
}

async fn exit_codes_and_signals() {
    let pod = Pod::start("codes").await;
    assert_eq!(pod.shell("exit 5").await.0, 5);
    let (streams, read) = captured();
    let script = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let mut container = Container::start(&pod.spec(&["sh", "-c", script], Vec::new()), streams)
        .await
        .unwrap();
    let mut receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(read).unwrap();
    let mut ready = [0; 6];
    receiver.read_exact(&mut ready).await.unwrap();
    container.signal(Signal::SIGTERM);
    let mut rest = String::new();
    receiver.read_to_string(&mut rest).await.unwrap();
    assert_eq!((container.wait().await, rest.as_str()), (9, "bye\n"));
}

async fn pods_reach_each_other() {
    let server = Pod::start("server").await;
    let client = Pod::start("client").await;
    let spec = server.spec(
        &[
            "redis-server",
            "--port",
            "7000",
            "--save",
            "",
            "--protected-mode",
            "no",
        ],
        Vec::new(),
    );
    let (streams, _read) = captured();
    let _container = Container::start(&spec, streams).await.unwrap();
    wait_for_redis((server.address, 7000).into()).await;
    let script = format!(
        "redis-cli -h {} -p 7000 set a b; redis-cli -h {} -p 7000 client list",
        server.address, server.address
    );
    let (_, text) = client.shell(&script).await;
    assert!(text.starts_with("OK\n"), "{text}");
    assert!(
        text.contains(&format!("addr={}:", client.address)),
        "{text}"
    );
}

async fn redis_answers_within_milliseconds() {
    let mut times = Vec::new();
    for _ in 0..8 {
        let started = Instant::now();
        let pod = Pod::start("redis-0").await;
        let sandbox = started.elapsed();
        let spec = pod.spec(
            &["redis-server", "--save", "", "--protected-mode", "no"],
            Vec::new(),
        );
        let (streams, read) = captured();
        let mut container = Container::start(&spec, streams).await.unwrap();
        let running = started.elapsed();
        wait_for_redis((pod.address, 6379).into()).await;
        let total = started.elapsed();
        times.push(total);
        println!("    sandbox {sandbox:.1?}, running {running:.1?}, PONG {total:.1?}");
        container.signal(Signal::SIGTERM);
        assert_eq!(container.wait().await, 0);
        assert!(read_all(read).await.contains("Ready to accept connections"));
        pod.sandbox.stop().await;
    }
    println!("    from nothing to PONG: {}", summary(times.clone()));
    // Tens of milliseconds on an idle machine; the bound is for a machine that builds at the same time.
    assert!(
        times.iter().min().unwrap() < &Duration::from_millis(500),
        "{times:?}"
    );
}

async fn wait_for_redis(address: SocketAddr) {
    let ping = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                stream.write_all(b"PING\r\n").await.unwrap();
                let mut answer = [0; 7];
                if stream.read_exact(&mut answer).await.is_ok() && &answer == b"+PONG\r\n" {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ping)
        .await
        .expect("redis answers");
}
