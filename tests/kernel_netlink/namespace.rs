//! A separate network namespace for one test.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `test` on a new thread and runtime in a new network namespace whose loopback interface is up.
///
/// The name of the namespace is deleted before the test begins. The kernel therefore removes it after the test's last process
/// and thread have ended, even if the test fails.
pub(crate) fn inside<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("pfk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    run(&format!("ip netns add {name}"));
    let file = File::open(format!("/run/netns/{name}"));
    run(&format!("ip netns del {name}"));
    let file = file.expect("the namespace that was just made");
    let test = move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter a network namespace");
        run("ip link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test());
    };
    let outcome = thread::scope(|scope| scope.spawn(test).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the namespace of this thread. Returns its output.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    output(Command::new(program).args(words))
}

/// Runs a line of the shell in the namespace of this thread.
pub(crate) fn shell(line: &str) {
    output(Command::new("sh").args(["-c", line]));
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs one command per line.
pub(crate) fn run_all(commands: &str) {
    commands.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|command| {
        run(command);
    });
}
