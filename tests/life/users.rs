//! Other users of the node. They can connect to the loopback address, bind its ports and open files that are readable for
//! all. None of this stops a change of the forwards, and none of it answers for the agent.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bed::agent::{Agent, AgentOptions, operator, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::netns::{must, output};
use crate::bed::{Bed, EXTERNAL, Proxy, SECOND_SERVER, SERVER};
use crate::exposition::value;
use crate::metrics::{METRICS, page};
use crate::stage::{FILE, Manifest, SEED, Stage, by, flow, servers, tcp, wait};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");

/// The user `nobody`, who has no right on the node.
const NOBODY: u32 = 65534;

/// Lets this process hold thousands of sockets.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("the soft limit may be raised");
}

/// Opens connections to the port of the metrics. Ignores those that are closed at once.
fn connect(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    let address: SocketAddr = METRICS.parse().unwrap();
    proxy.netns.run(|| (0..count).filter_map(|_| TcpStream::connect(address).ok()).collect())
}

/// The number of files that the agent has open.
fn files(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.id())).expect("the agent runs").count()
}

/// A value of `/proc/PID/status` of the agent, in KiB.
fn memory(agent: &Agent, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).expect("the agent runs");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}: {status}"));
    line.trim_start_matches(':').trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn eleven_hundred_idle_connections_leave_the_agent_its_files_and_the_scraper_its_answer() {
    allow_many_files();
    // Both the soft and the hard limit, so that the agent cannot raise it.
    let mounts = Some("ulimit -n 1024; exec \"$@\"".to_owned());
    let stage = Stage::with(AgentOptions { mounts, ..AgentOptions::new(Variant::Nft) }, Bed::new(), &[(FILE, Manifest::seed())]);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    page(stage.proxy(), "/metrics");
    let before = files(&stage.agent);
    let held = connect(stage.proxy(), 1_100);
    assert_eq!(held.len(), 1_100, "the kernel accepts them");
    // A scrape is answered although every place is taken by a connection that says nothing.
    assert_eq!(page(stage.proxy(), "/metrics").status, 200);
    assert!(files(&stage.agent) <= before + 40, "{} files, {before} before", files(&stage.agent));
    stage.edit(&Manifest::seed().for_second_server());
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
    assert_eq!(page(stage.proxy(), "/livez").status, 200);
    assert!(!stage.agent.log().contains("Too many open files"), "{}", stage.agent.log());
    // Those that were not replaced are closed when they have sent no header in time.
    for mut stream in held {
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "an idle connection is closed");
    }
    wait("all files are closed", || files(&stage.agent) <= before);
}

#[test]
fn five_hundred_unfinished_headers_of_400_kb_cost_less_than_16_mib() {
    allow_many_files();
    let stage = Stage::seed(Variant::Nft);
    page(stage.proxy(), "/metrics");
    let before = memory(&stage.agent, "VmRSS");
    let part = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(400_000));
    let held: Vec<TcpStream> = connect(stage.proxy(), 500);
    for mut stream in &held {
        stream.set_nonblocking(true).unwrap();
        // The agent closes the connection before it has read all of it.
        let _ = stream.write_all(part.as_bytes());
    }
    wait("the agent reads on", || page(stage.proxy(), "/metrics").status == 200);
    let most = memory(&stage.agent, "VmHWM").saturating_sub(before);
    assert!(most < 16 * 1024, "{most} KiB more");
    drop(held);
    // A header that is too large for the agent is refused, and a body is not waited for.
    let large = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let body = "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".to_owned();
    for (request, status) in [(large, "431"), (body, "200")] {
        let mut stream = connect(stage.proxy(), 1).remove(0);
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
}

#[test]
fn scrapes_without_a_pause_do_not_delay_a_change() {
    let stage = Stage::seed(Variant::Nft);
    let _servers = servers(&stage.bed);
    let proxy = stage.proxy();
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let _ = crate::metrics::ask(proxy, "/metrics");
                }
            });
        }
        stage.edit(&Manifest::seed().for_second_server());
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
}

/// The result of `health` for the agent of this proxy.
fn health(proxy: &Proxy, question: &str) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        operator(proxy, ["health", question, "--state-dir"].map(Path::new).into_iter().chain([state_folder(proxy).as_path()]));
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[test]
fn the_probes_are_answered_by_the_agent_alone_and_say_why_they_fail() {
    let bed = Bed::new();
    // The port of earlier versions is taken, and everything else on the loopback address could be.
    let squatter = bed.proxy().netns.run(|| std::net::TcpListener::bind("127.0.0.1:10451")).expect("free");
    let (code, said) = health(bed.proxy(), "live");
    assert!(code == Some(1) && said.contains("no agent runs with this state directory"), "{code:?} {said}");

    let Stage { agent, manifests, options, bed } = Stage::of(Variant::Nft, bed, &[(FILE, Manifest::seed())]);
    agent.wait_ready(SEED);
    wait("ready", || health(bed.proxy(), "ready") == (Some(0), "ok\n".to_owned()));
    assert_eq!(health(bed.proxy(), "live"), (Some(0), "ok\n".to_owned()));
    drop(squatter);

    // An agent that does nothing any more does not answer.
    agent.pause();
    let (code, said) = health(bed.proxy(), "live");
    assert!(code == Some(1) && said.contains("the agent did not answer on") && said.contains("within 5 s"), "{code:?} {said}");
    agent.resume();
    wait("alive again", || health(bed.proxy(), "live").0 == Some(0));

    // After a crash the socket is still there, and nobody listens.
    agent.kill();
    let socket = state_folder(bed.proxy()).join("health.sock");
    assert!(socket.exists());
    let (code, said) = health(bed.proxy(), "live");
    assert!(code == Some(1) && said.contains("no agent runs with this state directory"), "{code:?} {said}");
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    wait("the next agent answers", || health(bed.proxy(), "live").0 == Some(0));
    agent.wait_ready(SEED);
    assert!(agent.stop().success());
    assert!(operator(bed.proxy(), ["cleanup", "--state-dir", state_folder(bed.proxy()).to_str().unwrap()]).status.success());
    assert!(!socket.exists(), "cleanup removes it");
}

/// The path of a Unix socket has at most 107 bytes.
#[test]
fn a_state_directory_with_a_long_path_has_its_socket_too() {
    let bed = Bed::new();
    let long = bed.proxy().files().join("d".repeat(120));
    let extra = vec!["--state-dir".to_owned(), long.to_str().unwrap().to_owned()];
    let mut agent = bed.proxy().command(PROGRAM);
    agent.args(["agent", "--node-name", "proxy", "--iptables", "nft", "--manifests"]).arg(bed.proxy().files()).args(&extra);
    let mut agent = agent.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let asked = || operator(bed.proxy(), ["health", "live"].iter().map(|word| (*word).to_owned()).chain(extra.clone()));
    wait("the agent answers", || asked().status.success());
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// Lets every user enter the folder of a proxy, as every user can enter `/run`. The state directory in it stays for root.
fn open_folder(proxy: &Proxy) {
    fs::set_permissions(proxy.files(), Permissions::from_mode(0o711)).unwrap();
}

#[test]
fn another_user_cannot_use_the_socket() {
    let stage = Stage::seed(Variant::Nft);
    open_folder(stage.proxy());
    let socket = state_folder(stage.proxy()).join("health.sock");
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    // Also where the state directory was created with another mode.
    fs::set_permissions(state_folder(stage.proxy()), Permissions::from_mode(0o755)).unwrap();
    let asked = output(stage.proxy().command("curl").args(["--silent", "--unix-socket"]).arg(&socket).arg("http://x/livez"));
    assert_eq!(asked.stdout, b"ok\n");
    assert!(UnixStream::connect(&socket).is_ok());
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--unix-socket"]).arg(&socket).arg("http://x/livez").uid(NOBODY).gid(NOBODY);
    let refused = output(&mut curl);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
}

/// Another user's process that holds the lock of iptables-legacy. It is killed at the end of its test.
struct Holding(Child);

impl Holding {
    /// Takes the lock. For this, a descriptor that is open for reading is enough.
    fn take(file: &Path) -> Self {
        let mut holder = Command::new("flock");
        holder.args(["--no-fork", "--exclusive"]).arg(file).args(["sleep", "infinity"]).uid(NOBODY).gid(NOBODY);
        let holder = Self(holder.spawn().expect("flock is installed"));
        wait("the lock is held", || is_held(file));
        holder
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_held(file: &Path) -> bool {
    flock(File::open(file).expect("root may open it"), FlockOperation::NonBlockingLockExclusive).is_err()
}

/// The lock file as the kubelet creates it for a `hostPath` volume.
fn made_by_the_kubelet(proxy: &Proxy) {
    open_folder(proxy);
    fs::write(proxy.lock_file(), "").unwrap();
    fs::set_permissions(proxy.lock_file(), Permissions::from_mode(0o644)).unwrap();
}

fn mode(proxy: &Proxy) -> u32 {
    fs::metadata(proxy.lock_file()).unwrap().mode() & 0o7777
}

#[test]
fn another_user_cannot_hold_the_lock_of_legacy_once_an_agent_has_started() {
    let bed = Bed::new();
    made_by_the_kubelet(bed.proxy());
    let stage = Stage::of(Variant::Legacy, bed, &[(FILE, Manifest::seed())]);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    let tried = || {
        let mut flock = Command::new("flock");
        flock.args(["--nonblock", "--exclusive"]).arg(stage.proxy().lock_file()).arg("true").uid(NOBODY).gid(NOBODY);
        output(&mut flock)
    };
    assert_eq!(mode(stage.proxy()), 0o600);
    let refused = tried();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    // The mode is corrected again if something sets it back, as a new file of the kubelet does.
    fs::set_permissions(stage.proxy().lock_file(), Permissions::from_mode(0o644)).unwrap();
    wait("the mode is corrected", || mode(stage.proxy()) == 0o600);
    stage.agent.wait_log("now only root can (mode 0600)");
    stage.edit(&Manifest::seed().for_second_server());
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
}

#[test]
fn the_status_names_a_process_that_holds_the_lock_of_legacy_from_before() {
    let bed = Bed::new();
    made_by_the_kubelet(bed.proxy());
    let holding = Holding::take(&bed.proxy().lock_file());
    let stage = Stage::of(Variant::Legacy, bed, &[(FILE, Manifest::seed())]);
    let _servers = servers(&stage.bed);
    stage.agent.wait_condition(SEED, "Programmed", "False", "ApplyFailed");
    let named = format!("process {} (sleep) of user {NOBODY} holds it", holding.0.id());
    wait("the status names the process", || stage.message(SEED, "Programmed").contains(&named));
    stage.agent.wait_log(&named);
    assert_eq!(mode(stage.proxy()), 0o600, "nobody else can take it now");
    drop(holding);
    stage.agent.wait_ready(SEED);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

/// The agent in a container of its own. In a pod, a process of the node may hold the lock.
#[test]
fn the_status_says_that_a_process_outside_of_the_container_holds_the_lock_of_legacy() {
    let bed = Bed::new();
    made_by_the_kubelet(bed.proxy());
    let holding = Holding::take(&bed.proxy().lock_file());
    let mounts = Some("exec unshare --pid --fork --kill-child --mount-proc \"$@\"".to_owned());
    let options = AgentOptions { mounts, ..AgentOptions::new(Variant::Legacy) };
    let stage = Stage::with(options, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_condition(SEED, "Programmed", "False", "ApplyFailed");
    let words = "a process outside of this container holds it; lslocks on the node shows which one";
    wait("the status says so", || stage.message(SEED, "Programmed").contains(words));
    drop(holding);
    stage.agent.wait_ready(SEED);
}

#[test]
fn a_lock_file_that_cannot_be_protected_is_logged_once_until_it_is_protected() {
    let bed = Bed::new();
    let lock = bed.proxy().lock_file();
    let replace_by_a_link = || {
        let link = lock.with_extension("link");
        std::os::unix::fs::symlink("elsewhere.lock", &link).unwrap();
        fs::rename(link, &lock).unwrap();
    };
    replace_by_a_link();
    let stage = Stage::of(Variant::Legacy, bed, &[(FILE, Manifest::seed())]);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    let logged = || stage.agent.log().matches("other users may be able to hold the lock of iptables-legacy").count();
    for manifest in [Manifest::seed().for_second_server(), Manifest::seed()] {
        stage.edit(&manifest);
    }
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "the programs work with the link");
    assert_eq!(logged(), 1, "not with every change");
    fs::remove_file(&lock).unwrap();
    made_by_the_kubelet(stage.proxy());
    wait("the file is protected", || mode(stage.proxy()) == 0o600);
    replace_by_a_link();
    wait("the next failure is logged", || logged() == 2);
}

#[test]
fn nft_has_no_lock_that_another_user_could_hold() {
    let bed = Bed::new();
    made_by_the_kubelet(bed.proxy());
    let _holding = Holding::take(&bed.proxy().lock_file());
    let stage = Stage::of(Variant::Nft, bed, &[(FILE, Manifest::seed())]);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    stage.edit(&Manifest::seed().for_second_server());
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
    assert!(is_held(&stage.proxy().lock_file()) && mode(stage.proxy()) == 0o644, "it was not used");
}

#[test]
fn text_of_an_object_reaches_the_log_only_escaped() {
    let hostile = "a\u{1b}[2J\n2026-01-01T00:00:00Z ERROR forged";
    let stage = Stage::of(Variant::Nft, Bed::new(), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let objects = [
        Manifest::seed().named("label").with("/metadata/labels", serde_json::json!({hostile: hostile})),
        Manifest::seed().named("annotation").with("/metadata/annotations", serde_json::json!({hostile: hostile})),
        Manifest::seed().named("interface").with("/spec/internal/interface", hostile),
        Manifest::seed().named("description").with("/spec/description", hostile),
        Manifest::seed().named("address").with("/spec/upstream/targets/0/address", hostile),
        Manifest::seed().named("unknown").with("/spec/unknown", 1).with(&format!("/spec/{}", hostile.replace('/', "~1")), 1),
        Manifest::seed().named(hostile),
        Manifest::seed().named("kind").with("/kind", hostile),
        Manifest::seed().named("selector").with("/spec/nodeSelector", serde_json::json!({"matchLabels": {hostile: hostile}})),
    ];
    for (number, object) in objects.iter().enumerate() {
        stage.manifests.put(&format!("hostile-{number}.yaml"), &object.text());
    }
    // A file name is free text too.
    stage.manifests.put("a\u{1b}[2J\nb.yaml", "{");
    stage.manifests.put("last.yaml", &Manifest::seed().named("last").text());
    stage.agent.wait_log("forward=lines/last");
    wait("the broken file is reported", || stage.agent.log().contains("b.yaml"));
    let log = stage.agent.log();
    assert!(!log.contains('\u{1b}'), "{log}");
    let begins = |line: &str| line.starts_with("20") && !line.starts_with("2026-01-01T00:00:00Z ERROR forged");
    assert!(log.lines().all(begins), "{log}");
    let table = stage.agent.report().unwrap().to_string();
    assert!(!table.contains('\u{1b}'), "JSON escapes it: {table}");
}

#[test]
fn a_storm_of_routes_and_silent_neighbours_causes_few_syncs_and_delays_no_change() {
    let stage = Stage::seed(Variant::Nft);
    let _servers = servers(&stage.bed);
    let syncs = || {
        let text = page(stage.proxy(), "/metrics").text;
        let count = |outcome: &str| value(&text, &format!("portforward_sync_duration_seconds_count{{outcome=\"{outcome}\"}}"));
        count("unchanged") + count("written") + count("failed")
    };
    let before = syncs();
    // Datagrams to neighbours that do not exist, and routes of another program that come and go. The kernel keeps the datagrams
    // in the send buffer of their socket for seconds, so each round has its own socket.
    for _ in 0..100 {
        let sender = stage.proxy().netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
        sender.set_nonblocking(true).unwrap();
        for number in 0..200 {
            let neighbour = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(192, 168, 0, 16)) + number);
            sender.send_to(b"x", (neighbour, 9)).unwrap();
        }
    }
    let routes = |verb: &str| {
        (0..5_000).map(move |n| format!("route {verb} 10.{}.{}.0/24 dev eth1", n / 250, n % 250)).collect::<Vec<_>>()
    };
    stage.proxy().netns.ip_batch(routes("add"));
    stage.edit(&Manifest::seed().for_second_server());
    stage.proxy().netns.ip_batch(routes("delete"));
    stage.edit(&Manifest::seed());
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    let during = syncs() - before;
    assert!(during < 200.0, "{during} syncs for 10,000 changes of routes");
    let listed = must(stage.proxy().command("ip").args(["route", "show", "proto", "154"]));
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

/// Attack 29: a conntrack table that is mostly full of entries of others.
#[test]
fn fifty_thousand_connections_of_others_stop_no_change_and_none_of_them_is_cut() {
    let stage = Stage::seed(Variant::Nft);
    let _servers = servers(&stage.bed);
    let other = |number: u32| {
        let (host, port) = (number / 10_000, 10_000 + number % 10_000);
        format!(
            "-I -p udp -t 300 -s 10.50.1.{host} -d 192.168.0.2 --sport {port} --dport 9 \
             --reply-src 192.168.0.2 --reply-dst 10.50.1.{host} --reply-port-src 9 --reply-port-dst {port}\n"
        )
    };
    let file = stage.proxy().files().join("entries");
    fs::write(&file, (0..50_000).map(other).collect::<String>()).unwrap();
    must(stage.proxy().command("conntrack").arg("-R").arg(&file));
    let entries = || stage.proxy().conntrack("-p udp --dport 9").len();
    assert_eq!(entries(), 50_000);
    let _flow = flow(&stage.bed);
    let carried = || stage.proxy().conntrack(&format!("-p udp --reply-src {SERVER}")).len();
    assert_eq!(carried(), 1);
    stage.edit(&Manifest::seed().for_second_server());
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
    assert_eq!((carried(), entries()), (0, 50_000), "the change finds the one flow that it must cut");
}
